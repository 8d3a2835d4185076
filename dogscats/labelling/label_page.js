// Photos to be labelled. A label is the cell of a class, `none`, or "" for a skipped photo.
const NONE = {name: "none of these", cell: "none"}, MOST_CHOICES = 12, SAMPLES = 50;
const {classes, items, lists, folder, rest: packed, warning} = content;
const labels = new Map();  // label of each photo that is decided about, by its number
let added = [];  // classes that were typed
let others = [];  // rows of an earlier file about photos that are not on the page
let accepted = null;  // of the rest: {classes: indices, wrong: numbers of photos}; null before it was accepted
let list = lists[0]?.asked, typed = null;  // null: nothing is being typed

const known = () => [...classes, ...added];
const nameOf = label => label === NONE.cell ? NONE.name : known().find(({cell}) => cell === label)?.name ?? label;
// A class that is called by a digit has its key, whatever its place is.
const keys = new Map(classes.flatMap(({name}, index) => /^[1-9]$/.test(name) ? [[name, index]] : []));
for (const index of classes.keys()) {
  const free = [..."123456789"].find(digit => !keys.has(digit));
  if (free && ![...keys.values()].includes(index)) keys.set(free, index);
}
const keyOf = index => [...keys].find(([, each]) => each === index)?.[0];

/** The rest: paths are sorted, each without what it has in common with the one before; `photo` if it is on the page. */
const rest = (() => {
  const onPage = new Map(photos.map(({cell}, photo) => [cell, photo]));
  let path = "";
  return packed.paths.map(([common, ending], row) => {
    path = path.slice(0, common) + ending;
    return {path, index: packed.classes[row], permille: packed.permille[row], photo: onPage.get(cell(path))};
  });
})();

// Labels

function settle(label) {
  if (!current) return say("There is no photo here.");
  typed = null;
  const number = Number(current.dataset.number), before = labels.get(number);
  past.push(() => {
    set(number, before);
    if (!filtered.includes(number)) { list = items[number].asked; render(); }
    bring(number);
    say(`${before === undefined ? "undecided" : said(before)} again: ${photos[number].name}`);
  });
  set(number, label);
  say(`${said(label)}: ${photos[number].name}`);
  advance();
}

const said = label => label === "" ? "skipped" : nameOf(label);

function set(number, label) {
  if (label === undefined) labels.delete(number);
  else labels.set(number, label);
  const card = grid.querySelector(`[data-number="${number}"]`);
  if (card) showLabel(card);
  changed(false);
}

function accept() {
  const proposed = current && items[current.dataset.number].proposed;
  if (proposed === null) say(current ? "Nothing is proposed: choose a class." : "There is no photo here.");
  else settle(proposed);
}

/** The rest as it is accepted: photos on the page have their own decision. */
function acceptedRest({classes: some, wrong}) {
  const chosen = new Set(some), refused = new Set(wrong);
  return rest.filter(({index, photo}, row) => chosen.has(index) && !refused.has(row) && !labels.has(photo));
}

function changed(isSaved) {
  saved = isSaved;
  const counts = new Map();
  for (const label of labels.values()) counts.set(label, (counts.get(label) ?? 0) + 1);
  const bulk = accepted ? acceptedRest(accepted).length : 0;
  const most = [...counts].sort(([, a], [, b]) => b - a).slice(0, 6).map(([label, n]) => `${n} ${said(label)}`);
  find("counter").textContent = `${labels.size} of ${items.length} decided${most.length ? `: ${most.join(", ")}` : ""}` +
    (bulk ? `; ${bulk.toLocaleString("en")} accepted` : "") + (others.length ? `; ${count(others.length, "earlier row")}` : "");
  Object.assign(find("progress"), {max: Math.max(items.length, 1), value: labels.size});
  find("accept-rest").textContent = accepted ? `${bulk.toLocaleString("en")} accepted: change` : `Accept the rest above 95 %${warning ? " (many may be wrong)" : ""}`;
  find("accept-rest").hidden = !rest.length;
  remember({labels: [...labels], added, others, accepted});
  showChoices();
}

// Cards

function makeCard(number) {
  const card = find("card").content.firstElementChild.cloneNode(true);
  card.dataset.number = card.querySelector("figure").dataset.photo = number;
  card.setAttribute("aria-label", photos[number].name);
  showThumbnail(card.querySelector(".enlarge"), number);
  card.querySelector("figcaption").textContent = photos[number].name;
  showLabel(card);
  return card;
}

function showLabel(card) {
  const label = labels.get(Number(card.dataset.number)), {proposed, text} = items[card.dataset.number];
  card.classList.toggle("decided", label !== undefined);
  card.classList.toggle("none", label === NONE.cell);
  card.classList.toggle("skipped", label === "");
  card.querySelector(".label").textContent = label === undefined ? proposed === null ? "" : `${nameOf(proposed)}?` : said(label);
  card.querySelector(".proposal").textContent = text;
}

/** Below the photos, or in the full size: what the current photo can be labelled, or what was typed may mean. */
function showChoices() {
  const number = Number(current?.dataset.number), label = labels.get(number), types = typed !== null, all = known(), found = types ? matches() : all;
  const proposed = types ? found[0]?.cell : items[number]?.proposed;
  const hint = text => make("span", {className: "soft typing"}, text);
  const button = (cell, key, ...text) => {
    const made = make("button", {type: "button", "aria-pressed": cell === label, className: cell === proposed ? "proposed" : ""}, ...(key ? [make("kbd", {}, key), " "] : []), ...text);
    made.addEventListener("click", () => settle(cell));
    return made;
  };
  const others = make("select", {"aria-label": "Other class"}, option("other …", ""), ...all.slice(MOST_CHOICES).map(({name, cell}) => option(name, cell)));
  others.addEventListener("change", () => settle(others.value));
  find("choices").replaceChildren(
    ...(types ? [make("span", {id: "typed"}, `${typed}▏`)] : []),
    ...found.slice(0, MOST_CHOICES).map(({name, cell}, place) => button(cell, types ? place ? "" : "Enter" : keyOf(place), named(name))),
    ...(types || all.length <= MOST_CHOICES ? [] : [others]),
    ...(types ? [] : [button(NONE.cell, "0", NONE.name), button("", "Space", "skip"), hint("or type a name")]),
    ...(typed && !found.length ? [hint("Enter adds this class; Esc does not")] : []));
}

/** Classes that begin with what was typed, or else contain it. */
function matches() {
  const text = typed.trim().toLowerCase(), all = [...known(), NONE], starts = all.filter(({name}) => name.toLowerCase().startsWith(text));
  const same = starts.filter(({name}) => name.toLowerCase() === text);
  return same.length ? [...same, ...starts.filter(each => !same.includes(each))] : starts.length ? starts : all.filter(({name}) => name.toLowerCase().includes(text));
}

function chooseTyped() {
  const name = typed.trim(), [best] = matches();
  if (!name) return type(null);
  if (best) return settle(best.cell);
  added.push({name, cell: cell(name)});
  settle(cell(name));
}

function type(text) {
  typed = text;
  showChoices();
}

function render() {
  for (const tab of find("tabs").children) tab.setAttribute("aria-pressed", tab.dataset.list === list);
  showCards([...items.keys()].filter(number => items[number].asked === list), "There are no photos to label.");
}

// The rest

const fileOf = path => `${folder.url}/${path.split("/").map(encodeURIComponent).join("/")}`;

function showRest() {
  const wrong = new Set(accepted?.wrong), off = new Set(accepted || warning ? classes.keys() : []), sections = [];
  for (const index of accepted?.classes ?? []) off.delete(index);
  const every = new Map(classes.map((_, index) => [index, []]));
  rest.forEach(({index, photo}, row) => { if (!labels.has(photo)) every.get(index).push(row); });
  const chosen = () => ({classes: [...classes.keys()].filter(index => !off.has(index)), wrong: [...wrong]});
  const total = () => {
    const n = acceptedRest(chosen()).length;
    find("rest-title").textContent = `Accept ${count(n, "photo")} as proposed, with probabilities of at least 95 %?`;
    find("accept").textContent = `Accept ${count(n, "photo")}`;
  };
  for (const [index, rows] of every) {
    if (!rows.length) continue;
    const box = make("input", {type: "checkbox", checked: !off.has(index)}), section = make("section", {}, make("label", {}, box, " ", named(classes[index].name), `: ${count(rows.length, "photo")}`));
    box.addEventListener("change", () => { if (box.checked) off.delete(index); else off.add(index); section.classList.toggle("refused-class", !box.checked); total(); });
    rows.sort((a, b) => rest[a].permille - rest[b].permille);
    const some = rows.length <= SAMPLES ? rows : Array.from({length: SAMPLES}, (_, n) => rows[Math.round(n * (rows.length - 1) / (SAMPLES - 1))]);
    section.append(make("div", {className: "sample-row"}, ...some.map(row => sample(row, wrong, total))));
    section.classList.toggle("refused-class", !box.checked);
    sections.push(section);
  }
  find("samples").replaceChildren(...sections);
  total();
  find("accept").onclick = () => decideRest(chosen());
  find("rest").showModal();
}

function sample(row, wrong, changes) {
  const {path, permille} = rest[row], picture = make("img", {loading: "lazy", alt: "", src: fileOf(path)});
  const button = make("button", {type: "button", className: "sample", title: `${path}: ${permille / 10} %`, "aria-label": path, "aria-pressed": wrong.has(row)}, picture);
  picture.addEventListener("error", () => picture.replaceWith(path), {once: true});
  button.addEventListener("click", () => {
    if (!wrong.delete(row)) wrong.add(row);
    button.setAttribute("aria-pressed", wrong.has(row));
    changes();
  });
  return button;
}

function decideRest(value) {
  const before = accepted;
  past.push(() => { accepted = before; changed(false); say("The rest is as it was before."); });
  accepted = value;
  find("rest").close();
  changed(false);
  say(value ? `${count(acceptedRest(value).length, "photo")} accepted.` : "None of the rest is accepted.");
}

// Files

const HEADER = ["path", "label", "by", "asked", "folder"];

function saveLabels() {
  const row = (path, label, by, asked) => [cell(path), label, by, asked, folder.cell];
  const rows = [...others,
    ...[...labels].filter(([, label]) => label).map(([number, label]) => [photos[number].cell, label, "you", items[number].asked, folder.cell]),
    ...(accepted ? acceptedRest(accepted) : []).map(({path, index}) => row(path, classes[index].cell, "proposed", "accepted"))];
  const last = new Map(rows.map(each => [`${each[4]}\n${each[0]}`, each]));  // a later decision replaces an earlier one
  save("labels.csv", csv([HEADER, ...last.values()]));
  changed(true);
  say(`${count(last.size, "label")} saved.`);
}

whenLoaded((file, header, rows) => {
  const columns = HEADER.map(name => header.indexOf(name));
  if (columns[0] < 0 || columns[1] < 0) return say(`${file} has no columns path and label, separated by commas.`);
  const numbers = new Map(photos.map(({cell}, photo) => [cell, photo]));
  const read = rows.map(row => columns.map(column => row[column] ?? "")).filter(([path, label]) => path && label);
  const replaced = new Map(others.map(each => [`${each[4]}\n${each[0]}`, each]));
  for (const each of read) {
    const [path, label, , , from] = each, number = from === folder.cell ? numbers.get(path) : undefined;
    if (label !== NONE.cell && !known().some(({cell}) => cell === label)) added.push({name: label, cell: label});
    if (number === undefined) replaced.set(`${from}\n${path}`, each);
    else labels.set(number, label);
  }
  others = [...replaced.values()];
  past = [];
  changed(false);
  grid.querySelectorAll(".card").forEach(showLabel);
  say(`${count(read.length, "label")} loaded; they are saved together with yours.`);
});

// Input

document.addEventListener("keydown", event => {
  const {target, key} = event;
  if (find("rest").open || target.matches("select, input")) return;
  if ((event.ctrlKey || event.metaKey) && key === "z") { event.preventDefault(); return undo(); }
  if (event.ctrlKey || event.metaKey || event.altKey || (target.matches("button") && [" ", "Enter"].includes(key))) return;
  const digit = typed === null && (/^Digit\d$/.test(event.code) && !event.shiftKey ? event.code.slice(5) : /^\d$/.test(key) ? key : "");
  const moves = {ArrowRight: [true, false], ArrowLeft: [false, false], ArrowDown: [true, true], ArrowUp: [false, true]}[key];
  if (!moves && key !== "Backspace" && key.length > 1 && !["Enter", "Escape"].includes(key)) return;
  if (key === "Escape" && typed === null) return;  // closes the full size
  event.preventDefault();
  if (moves) { typed = null; move(...moves); }
  else if (event.repeat && key !== "Backspace") return;
  else if (key === "Escape") type(null);
  else if (key === "Backspace") typed === null ? undo() : type(typed.length > 1 ? typed.slice(0, -1) : null);
  else if (key === "Enter") typed === null ? accept() : chooseTyped();
  else if (typed !== null) type(typed + key);
  else if (key === " ") settle("");
  else if (digit === "0") settle(NONE.cell);
  else if (digit) keys.has(digit) ? settle(classes[keys.get(digit)].cell) : say(`No class has the key ${digit}.`);
  else if (key === "+" || key === "=") large.open ? large.close() : current && enlarge(current.querySelector("figure"));
  else type(key === "/" ? "" : key);
});
grid.addEventListener("current", showChoices);
new MutationObserver(() => {  // choices are beside the photo at full size, too
  (large.open ? large : find("footer")).append(find("choices"));
  showChoices();
}).observe(large, {attributeFilter: ["open"]});
find("save").addEventListener("click", saveLabels);
find("accept-rest").addEventListener("click", showRest);
find("refuse").addEventListener("click", () => decideRest(null));
for (const id of ["rest", "save", "hide"]) find(id).addEventListener(id === "rest" ? "close" : "click", () => go(current));  // keys are for it again

// Start

for (const each of lists) {
  const tab = make("button", {type: "button"}, `${each.heading} ${each.count}`);
  tab.dataset.list = each.asked;
  tab.addEventListener("click", () => { list = each.asked; render(); go(current); });
  find("tabs").append(tab);
}
const stored = remembered();
for (const [number, label] of stored?.labels ?? []) labels.set(number, label);
({added, others, accepted} = {added, others, accepted, ...stored});
Object.assign(find("warning"), {textContent: warning, hidden: !warning});
render();
changed(stored?.saved ?? true);
