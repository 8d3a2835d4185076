// Suspects and decisions about them. `cell` is a name as CSV files have it, `name` as it is shown.
const STEP = 100;  // cards that are added at once
const DECISIONS = ["keep", "drop", "relabel"];
const KEYS = {1: "keep", k: "keep", 2: "drop", d: "drop", 3: "relabel", r: "relabel"};
const {key, kinds, classes, photos, suspects, decided} = parsed("data");
const grid = find("grid"), end = find("end"), classSelect = find("class"), large = find("large");
const classNames = new Map(classes.map(({name, cell}) => [cell, name]));
const decisions = new Map();  // by cell of the path: {decision, label}; also those about photos that are not on the page
const unfolded = new Set();  // kinds whose less likely suspects are shown
let past = [], saved = true, kind = "", filtered = [], rendered = 0;
let current = null, enlarged = null;  // cards: the one that keys are for, and the one at full size

const say = text => { find("status").textContent = text; };
const option = (text, value) => make("option", {textContent: text, value});

// Decisions

function settle(element, decision, label = "") {
  const {photo} = element.dataset, {cell, name} = photos[photo], before = decisions.get(cell), card = element.closest(".card");
  makeCurrent(card);
  if ((before?.decision ?? "") !== decision || (before?.label ?? "") !== label) {
    past.push([photo, before, Number(card.dataset.suspect)]);
    set(photo, decision && {decision, label});
    say(`${decision || "undecided"}${label ? ` as ${classNames.get(label)}` : ""}: ${name}`);
  }
  if (decision) advance();
}

function undo() {
  if (!past.length) return say("There is nothing to undo.");
  const [photo, before, suspect] = past.pop();
  set(photo, before);
  reveal(suspect);
  say(`${before?.decision ?? "undecided"} again: ${photos[photo].name}`);
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
  try { localStorage.setItem(key, JSON.stringify({saved, decisions: [...decisions]})); } catch { /* forbidden, or full */ }
}

const cells = () => new Map([...photos, ...classes].map(({name, cell}) => [name, cell]));  // files may have names, too

function restore() {
  let stored = null;
  try {
    stored = JSON.parse(localStorage.getItem(key));
  } catch { /* forbidden */ }
  const known = cells();
  for (const [path, {decision, label}] of stored?.decisions ?? decided) decisions.set(known.get(path) ?? path, {decision, label: known.get(label) ?? label});
  changed(stored?.saved ?? true);
}

// Cards

function card(number) {
  const element = find("card").content.firstElementChild.cloneNode(true), part = name => element.querySelector(name), suspect = suspects[number];
  part(".given").textContent = suspect.label;
  part(".suggested").textContent = classNames.get(suspect.suggested) ?? "";
  part(".arrow").hidden = !suspect.suggested;
  part(".score").textContent = `score ${suspect.score}`;
  part(".reason").textContent = suspect.reason;
  element.dataset.suspect = number;
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
  const element = find("choices").content.firstElementChild.cloneNode(true), {name} = photos[photo], button = element.querySelector(".enlarge");
  const {src, unreadable} = parsed(`photo-${photo}`);
  button.append(src ? make("img", {src, alt: ""}) : make("span", {}, `It cannot be read: ${unreadable}`));
  if (src) button.setAttribute("aria-label", `Full size: ${name}`);
  else button.disabled = true;
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

function more() {
  grid.append(...filtered.slice(rendered, rendered + STEP).map(card));
  rendered = Math.min(rendered + STEP, filtered.length);
}

function render() {
  for (const tab of find("tabs").children) tab.setAttribute("aria-pressed", tab.dataset.kind === kind);
  const all = classSelect.selectedIndex === 0, shown = each => (!kind || each.kind === kind) && (all || each.label === classSelect.value);
  const numbers = [...suspects.keys()].filter(number => shown(suspects[number])), likely = numbers.filter(number => suspects[number].likely);
  const others = numbers.filter(number => !suspects[number].likely);
  filtered = [...likely, ...others.filter(number => unfolded.has(suspects[number].kind))];
  rendered = 0;
  grid.replaceChildren();
  more();
  if (!filtered.length) grid.append(make("p", {className: "empty soft"}, others.length ? "No suspect is likely here." : "There are no suspects here."));
  find("folds").replaceChildren(...kinds.filter(each => !unfolded.has(each.kind)).flatMap(each => {
    const folded = others.filter(number => suspects[number].kind === each.kind).length;
    const button = make("button", {type: "button"}, `Show ${folded.toLocaleString("en")} less likely: ${each.heading}`);
    button.addEventListener("click", () => { const {scrollY} = window; unfolded.add(each.kind); render(); window.scrollTo(0, scrollY); });
    return folded ? [button] : [];
  }));
  makeCurrent([...grid.querySelectorAll(".card")].find(visible) ?? null);
  observe();
}

/** Observe the end anew, since an observer does not tell of one that stays in view. */
function observe() {
  observer.unobserve(end);
  observer.observe(end);
}

const observer = new IntersectionObserver(([{isIntersecting}]) => {
  if (!isIntersecting || rendered >= filtered.length) return;
  more();
  observe();
}, {rootMargin: "1500px"});

// The current card: keys are for it.

const visible = card => !(grid.classList.contains("hiding") && card.classList.contains("decided"));

function makeCurrent(card) {
  current?.classList.remove("current");
  current = card;
  current?.classList.add("current");
}

function go(card) {
  if (!card) return;
  makeCurrent(card);
  if (large.open) return enlarge(card.querySelector("figure"));
  card.focus({preventScroll: true});
  card.scrollIntoView({block: "nearest"});
}

/** The visible cards before or after a card, the nearest first. */
function* beside(card, forward) {
  if (rendered < filtered.length && [...grid.children].indexOf(card) > rendered - 20) more();
  for (let next = card; (next = forward ? next.nextElementSibling : next.previousElementSibling);) if (visible(next)) yield next;
}

function move(key) {
  if (!current || (!large.open && !current.contains(document.activeElement))) return go(current);
  const forward = ["ArrowRight", "ArrowDown", "l"].includes(key);
  let best = null;  // the next one, or the nearest in the next row
  for (const next of beside(current, forward)) {
    if (!["ArrowUp", "ArrowDown"].includes(key) || large.open) { best = next; break; }
    if (next.offsetTop === current.offsetTop) continue;
    if (best && next.offsetTop !== best.offsetTop) break;
    if (!best || Math.abs(next.offsetLeft - current.offsetLeft) < Math.abs(best.offsetLeft - current.offsetLeft)) best = next;
  }
  go(best);
}

/** After a decision: the next suspect without one, or else the last before. */
function advance() {
  const undecided = cards => { for (const each of cards) if (!each.classList.contains("decided")) return each; };
  const next = undecided(beside(current, true)) ?? undecided(beside(current, false));
  if (next) go(next);
  else if (large.open) large.close();
  else current.focus({preventScroll: true});  // out of the select
  observe();
}

/** Show a suspect, whatever the filters are. */
function reveal(number) {
  if (!filtered.includes(number)) {
    if (!suspects[number].likely) unfolded.add(suspects[number].kind);
    kind = "";
    classSelect.selectedIndex = 0;
    render();
  }
  while (rendered <= filtered.indexOf(number)) more();
  go(grid.querySelector(`[data-suspect="${number}"]`));
}

/** Show a photo at full size, from its file; the thumbnail where there is none, or the browser cannot show it. */
function enlarge(element) {
  const {photo} = element.dataset, {src, file} = parsed(`photo-${photo}`), picture = make("img", {id: "large-photo", className: "photo", alt: ""});
  if (!src) return large.open && large.close();
  enlarged = element.closest(".card");
  find("large-name").textContent = photos[photo].name;
  find("large-labels").replaceChildren(...enlarged.querySelector(".labels").cloneNode(true).children);
  find("large-note").textContent = "";
  picture.addEventListener("error", () => {
    picture.src = src;
    find("large-note").textContent = "The thumbnail: this browser cannot show the file, or it is not on this machine.";
  }, {once: true});
  picture.src = file;
  find("large-photo").replaceWith(picture);
  if (!large.open) large.showModal();
}

// Files

function saveDecisions() {
  save("decisions.csv", csv([["path", "decision", "label"], ...[...decisions].map(([cell, {decision, label}]) => [cell, decision, label])]));
  changed(true);
  say(`${count(decisions.size, "decision")} saved. Train again with data.decisions=<this file>.`);
}

function csvRows(text) {
  const rows = [[]];
  // A cell, quoted or not, and what ends it.
  for (const [, quoted, plain, mark] of text.matchAll(/(?:"((?:[^"]|"")*)"|([^,\r\n]*))(,|\r?\n|\r|$)/g)) {
    rows.at(-1).push(quoted === undefined ? plain : quoted.replaceAll('""', '"'));
    if (mark === "") break;
    if (mark !== ",") rows.push([]);
  }
  return rows.filter(row => row.some(cell => cell !== ""));
}

async function load(file) {
  const [header = [], ...rows] = csvRows((await file.text()).replace(/^\ufeff/, ""));
  const [path, decision, label] = ["path", "decision", "label"].map(name => header.indexOf(name));
  if (path < 0 || decision < 0) return say(`${file.name} has no columns path and decision, separated by commas.`);
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
}

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
    move(key);
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
grid.addEventListener("focusin", ({target}) => {
  makeCurrent(target.closest(".card"));
  if (target.matches("select")) fill(target);
});
grid.addEventListener("pointerdown", ({target}) => { if (target.matches("select")) fill(target); });
grid.addEventListener("click", ({target}) => {
  const button = target.closest("button"), element = target.closest("figure");
  if (!button) return;
  if (button.matches(".enlarge")) enlarge(element);
  else if (button.getAttribute("aria-pressed") === "true") settle(element, "");
  else choose(element, button.dataset.decision);
});
grid.addEventListener("change", ({target}) => {
  const element = target.closest("figure");
  if (target.value) settle(element, "relabel", target.value);
  else showDecision(element);
});
large.addEventListener("click", ({target}) => { if (target === large || target.id === "close") large.close(); });
large.addEventListener("close", () => go(enlarged));  // a browser returns to the photo that was enlarged first
classSelect.addEventListener("change", render);
find("hide").addEventListener("click", ({target}) => {
  target.setAttribute("aria-pressed", grid.classList.toggle("hiding"));
  if (current && !visible(current)) makeCurrent([...grid.querySelectorAll(".card")].find(visible) ?? null);
  observe();
});
find("save").addEventListener("click", saveDecisions);
find("load").addEventListener("click", () => find("file").click());
find("file").addEventListener("change", async ({target}) => { if (target.files.length) await load(target.files[0]); target.value = ""; });
// Nothing scrolls to behind the header, whose height depends on the width of the window.
new ResizeObserver(([{target}]) => {
  const covers = getComputedStyle(target).position === "sticky";
  document.documentElement.style.scrollPaddingTop = covers ? `${target.offsetHeight}px` : "";
}).observe(document.querySelector("header"));
window.addEventListener("beforeunload", event => { if (!saved) event.preventDefault(); });

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
