// Suspects and decisions about them.
const DECISIONS = ["keep", "drop", "relabel"];
const KEYS = {1: "keep", k: "keep", 2: "drop", d: "drop", 3: "relabel", r: "relabel"};
const {kinds, classes, suspects, decided} = content;
const classSelect = find("class");
const classNames = new Map(classes.map(({name, cell}) => [cell, name]));
const decisions = new Map();  // by cell of the path: {decision, label}; also those about photos that are not on the page
const unfolded = new Set();  // kinds whose less likely suspects are shown
let kind = "";

// Decisions

function settle(element, decision, label = "") {
  const {photo} = element.dataset, {cell, name} = photos[photo], before = decisions.get(cell), card = element.closest(".card");
  makeCurrent(card);
  if ((before?.decision ?? "") !== decision || (before?.label ?? "") !== label) {
    past.push(() => {
      set(photo, before);
      reveal(Number(card.dataset.number));
      say(`${before?.decision ?? "undecided"} again: ${name}`);
    });
    set(photo, decision && {decision, label});
    say(`${decision || "undecided"}${label ? ` as ${classNames.get(label)}` : ""}: ${name}`);
  }
  if (decision) advance();
}

function set(photo, decision) {
  if (decision) decisions.set(photos[photo].cell, decision);
  else decisions.delete(photos[photo].cell);
  changed(false);
  grid.querySelectorAll(`figure[data-photo="${photo}"]`).forEach(showDecision);
}

function changed(isSaved) {
  saved = isSaved;
  const numbers = Object.fromEntries(DECISIONS.map(each => [each, 0]));
  for (const {decision} of decisions.values()) numbers[decision]++;
  find("counter").textContent = `${decisions.size.toLocaleString("en")} decided: ` + DECISIONS.map(each => `${numbers[each]} ${each}`).join(", ");
  remember({decisions: [...decisions]});
}

const cells = () => new Map([...photos, ...classes].map(({name, cell}) => [name, cell]));  // files may have names, too

function restore() {
  const stored = remembered(), known = cells();
  for (const [path, {decision, label}] of stored?.decisions ?? decided) decisions.set(known.get(path) ?? path, {decision, label: known.get(label) ?? label});
  changed(stored?.saved ?? true);
}

// Cards

function makeCard(number) {
  const element = find("card").content.firstElementChild.cloneNode(true), part = name => element.querySelector(name), suspect = suspects[number];
  part(".given").textContent = suspect.label;
  part(".suggested").textContent = classNames.get(suspect.suggested) ?? "";
  part(".arrow").hidden = !suspect.suggested;
  part(".score").textContent = `score ${suspect.score}`;
  part(".reason").textContent = suspect.reason;
  element.dataset.number = number;
  element.setAttribute("aria-label", [kinds.find(each => each.kind === suspect.kind).heading, photos[suspect.photo].name].join(": "));
  for (const [photo, suggested] of suspect.twin === null ? [[suspect.photo, suspect.suggested]] : [[suspect.photo, ""], [suspect.twin, ""]]) {
    const added = figure(photo, suggested);
    part(".photos").append(added);
    showDecision(added);
  }
  element.classList.toggle("pair", suspect.twin !== null);
  return element;
}

function figure(photo, suggested) {
  const element = find("choices").content.firstElementChild.cloneNode(true), {name} = photos[photo];
  showThumbnail(element.querySelector(".enlarge"), photo);
  element.querySelector("figcaption").textContent = name;
  element.querySelector(".choices").setAttribute("aria-label", `Decision about ${name}`);
  Object.assign(element.dataset, {photo, suggested});
  return element;
}

function showDecision(element) {
  const {decision, label} = decisions.get(photos[element.dataset.photo].cell) ?? {}, select = element.querySelector("select"), card = element.closest(".card");
  if (decision) element.dataset.chosen = decision;
  else delete element.dataset.chosen;
  for (const button of element.querySelectorAll("[data-decision]")) button.setAttribute("aria-pressed", button.dataset.decision === decision);
  card.classList.toggle("decided", card.querySelector("[data-chosen]") !== null);
  const value = label || element.dataset.suggested;
  // The other classes are added when they are needed: a thousand in each of a thousand cards would take long.
  if (![...select.options].some(each => each.value === value)) select.replaceChildren(option(value ? classNames.get(value) ?? value : "to …", value));
  select.value = value;
}

function fill(select) {
  if (select.options.length > classes.length) return;
  const {value} = select;
  select.replaceChildren(option("to …", ""), ...classes.map(({name, cell}) => option(name, cell)));
  select.value = value;
}

function render() {
  for (const tab of find("tabs").children) tab.setAttribute("aria-pressed", tab.dataset.kind === kind);
  const all = classSelect.selectedIndex === 0, shown = each => (!kind || each.kind === kind) && (all || each.label === classSelect.value);
  const numbers = [...suspects.keys()].filter(number => shown(suspects[number])), likely = numbers.filter(number => suspects[number].likely);
  const others = numbers.filter(number => !suspects[number].likely);
  find("folds").replaceChildren(...kinds.filter(each => !unfolded.has(each.kind)).flatMap(each => {
    const folded = others.filter(number => suspects[number].kind === each.kind).length;
    const button = make("button", {type: "button"}, `Show ${folded.toLocaleString("en")} less likely: ${each.heading}`);
    button.addEventListener("click", () => { const {scrollY} = window; unfolded.add(each.kind); render(); window.scrollTo(0, scrollY); });
    return folded ? [button] : [];
  }));
  const none = others.length ? "No suspect is likely here." : "There are no suspects here.";
  showCards([...likely, ...others.filter(number => unfolded.has(suspects[number].kind))], none);
}

/** Show a suspect, whatever the filters are. */
function reveal(number) {
  if (!filtered.includes(number)) {
    if (!suspects[number].likely) unfolded.add(suspects[number].kind);
    kind = "";
    classSelect.selectedIndex = 0;
    render();
  }
  bring(number);
}

// Files

function saveDecisions() {
  save("decisions.csv", csv([["path", "decision", "label"], ...[...decisions].map(([cell, {decision, label}]) => [cell, decision, label])]));
  changed(true);
  say(`${count(decisions.size, "decision")} saved. Train again with data.decisions=<this file>.`);
}

whenLoaded((file, header, rows) => {
  const [path, decision, label] = ["path", "decision", "label"].map(name => header.indexOf(name));
  if (path < 0 || decision < 0) return say(`${file} has no columns path and decision, separated by commas.`);
  const known = cells();
  let taken = 0;
  for (const row of rows) {
    const chosen = row[decision] ?? "", text = row[label] ?? "", to = chosen === "relabel" ? known.get(text) ?? text : "";
    if (!row[path] || !DECISIONS.includes(chosen) || (chosen === "relabel" && !classNames.has(to))) continue;
    decisions.set(known.get(row[path]) ?? row[path], {decision: chosen, label: to});
    taken++;
  }
  past = [];
  changed(saved && taken === decisions.size);
  grid.querySelectorAll("figure").forEach(showDecision);
  const left = rows.length - taken;
  say(`${count(taken, "decision")} loaded${left ? `; ${count(left, "row")} left out: no path, or an unknown decision or class` : ""}.`);
});

// Input

function choose(element, decision) {
  const select = element.querySelector("select");
  if (decision !== "relabel") settle(element, decision);
  else if (select.value) settle(element, decision, select.value);
  else { if (large.open) large.close(); fill(select); select.focus(); say("Choose the new label."); }
}

document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const {target} = event, figures = current?.querySelectorAll("figure") ?? [], figure = event.shiftKey ? figures[1] ?? figures[0] : figures[0];
  if (target.matches("select, input")) {
    if (event.key === "Escape") current?.focus();
    return;
  }
  const key = event.code.startsWith("Digit") ? event.code.slice(5) : event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (key.startsWith("Arrow") || key === "h" || key === "l") {
    event.preventDefault();
    move(["ArrowRight", "ArrowDown", "l"].includes(key), ["ArrowUp", "ArrowDown"].includes(key));
  } else if (key === "u") undo();
  else if (key in KEYS && figure && !event.repeat) {
    event.preventDefault();  // or the key would be typed into a select that gets the focus
    choose(figure, KEYS[key]);
  } else if (key === "Enter" && !target.matches("button")) {
    event.preventDefault();
    if (large.open) large.close();
    else if (figure) enlarge(figure);
  }
});
grid.addEventListener("focusin", ({target}) => { if (target.matches("select")) fill(target); });
grid.addEventListener("pointerdown", ({target}) => { if (target.matches("select")) fill(target); });
grid.addEventListener("click", ({target}) => {
  const button = target.closest("[data-decision]"), element = target.closest("figure");
  if (!button) return;
  if (button.getAttribute("aria-pressed") === "true") settle(element, "");
  else choose(element, button.dataset.decision);
});
grid.addEventListener("change", ({target}) => {
  const element = target.closest("figure");
  if (target.value) settle(element, "relabel", target.value);
  else showDecision(element);
});
classSelect.addEventListener("change", render);
closeButton.before(find("large-keys"));
find("save").addEventListener("click", saveDecisions);

// Start

const labels = [...new Set(suspects.map(({label}) => label))].sort();
classSelect.append(option("all", ""), ...labels.map(label => option(label || "none", label)));
const likely = kinds.filter(each => each.likely), total = kinds.reduce((sum, each) => sum + each.likely, 0);
for (const each of [{kind: "", heading: "All", likely: total}, ...kinds]) {
  const listed = suspects.filter(suspect => suspect.likely && (!each.kind || suspect.kind === each.kind)).length;
  const tab = make("button", {type: "button"}, `${each.heading} ${listed.toLocaleString("en")}${listed < each.likely ? ` of ${each.likely.toLocaleString("en")}` : ""}`);
  tab.dataset.kind = each.kind;
  tab.addEventListener("click", () => { kind = each.kind; render(); });
  find("tabs").append(tab);
}
find("summary").textContent = likely.map(each => count(each.likely, `likely ${each.noun}`)).join(", ") || "No suspect is likely";
restore();
render();
