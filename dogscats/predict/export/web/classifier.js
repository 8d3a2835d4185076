// The page of a classifier. Its worker decodes and predicts one photo at a time; `waiting` are the others.
const {classes, thresholds, model, accuracy, limitations, files} = parsed("data");
const rows = find("rows");
let items = [], waiting = [], current = null, shown = null, follows = true, worker = null, parts = null, ready = false;
let started = 0, of = 0, order = {by: "number", down: false};

const say = text => { find("status").textContent = text; };
const percent = value => percentages([value, 1 - value])[0];

// The parts: runtime, its WebAssembly and photo.onnx, from this page or from files beside it.

async function fetched(name, progressed) {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`${name} is missing (${response.status})`);
  const chunks = [];
  for (const reader = response.body.getReader(); ;) {
    const {done, value} = await reader.read();
    if (done) return new Blob(chunks).arrayBuffer();
    chunks.push(value);
    progressed(value.length);
  }
}

async function findParts() {
  if (find("part-model")) {
    const [runtime, wasm, model] = ["runtime", "wasm", "model"].map(name => {
      const element = find(`part-${name}`), text = element.textContent;
      element.remove();
      return text;
    });
    return {runtime: JSON.parse(runtime), wasm, model};
  }
  if (location.protocol === "file:") throw new Error("This page needs a web server. Open classifier.html instead, which works without one.");
  const all = files.reduce((sum, [, bytes]) => sum + bytes, 0);
  let done = 0;
  const progressed = bytes => {
    done += bytes;
    say(`Loading the classifier: ${Math.min(100, Math.floor(100 * done / all))} % of ${(all / 1e6).toFixed(0)} MB`);
  };
  const [runtime, wasm, model] = await Promise.all(files.map(([name]) => fetched(name, progressed)));
  return {runtime: new TextDecoder().decode(runtime), wasm, model};
}

/** Start the worker: the runtime's script with ours behind it. Of a page that is a file, no worker may be a module. */
function start() {
  const runtime = parts.runtime.replaceAll("import.meta.url", "self.location.href")
    .replace(/export\s*\{([^}]*)\};?/, (_, names) => `const ort={${names.replace(/([\w$]+) as (\w+)/g, "$2:$1")}};`);
  const url = URL.createObjectURL(new Blob([runtime, "\n", find("worker").textContent], {type: "text/javascript"}));
  ready = false;
  worker = new Worker(url);
  worker.onmessage = ({data}) => heard(data);
  worker.onerror = event => { event.preventDefault(); heard({failed: event.message || "the worker cannot be started"}); };
  worker.postMessage({wasm: parts.wasm, model: parts.model});
}

function unusable(reason) {
  waiting = [];
  working();
  say("");
  find("status").append(make("span", {className: "refused"}, `This page cannot run here: ${reason}`));
}

function heard(data) {
  if (data.ready) {
    ready = true;
    document.body.dataset.ready = "true";
    if (!waiting.length) say("Ready.");
    return next();
  }
  if (data.failed && !ready) return unusable(data.failed);
  const item = current;
  current = null;
  if (!item) return;
  if (data.failed) {  // most likely for lack of memory, after which the runtime is of no more use
    worker.terminate();
    start();
    data = {refused: `this browser cannot predict it (${data.failed})`};
  }
  Object.assign(item, data);
  if (!item.refused) {
    item.certainty = Math.max(...item.probabilities);
    item.predicted = classes[item.probabilities.indexOf(item.certainty)];
    item.decision = thresholds && item.unlike !== null ? decide(classes, item.probabilities, item.unlike, thresholds) : null;
  }
  if (item.cleared) of--;
  else {
    add(item);
    if (follows && (!waiting.length || !shown)) show(item);
  }
  next();
}

function next() {
  if (ready && !current && waiting.length) {
    current = waiting.shift();
    worker.postMessage({file: current.file});
  }
  working();
}

function working() {
  const left = waiting.length + (current ? 1 : 0), done = of - left;
  find("working").hidden = !left;
  if (left) {
    Object.assign(find("progress"), {max: of, value: done});
    if (ready) say(of === 1 ? "Looking at the photo …" : `${done} of ${of} photos`);
  } else if (of) {
    finish();
    of = 0;
  }
}

function finish() {
  const seconds = ((performance.now() - started) / 1000).toFixed(1), [last] = items.slice(-1);
  sortRows();
  if (of > 1) say(`${count(items.length, "photo")} in the table; the last ${of} took ${seconds} s.`);
  else if (last?.refused) say(`${last.name} cannot be used: ${last.refused}.`);
  else if (last) say(`${last.name}: ${label(last)}${classes.includes(label(last)) ? `, ${percent(last.certainty)}` : ""}.`);
}

// Photos

function ask(chosen) {
  if (!chosen.length) return;
  if (!of) started = performance.now();
  follows = true;
  of += chosen.length;
  for (const file of chosen) waiting.push({file, name: file.path ?? (file.webkitRelativePath || file.name)});
  next();
}

function cancel() {
  of -= waiting.length;
  const left = waiting.length;
  waiting = [];
  next();
  if (left) say(`Cancelled: ${count(left, "photo")} left out.`);
}

/** Files of a drop, also those in folders. */
async function dropped(transfer) {
  const entries = [...transfer.items].map(item => item.webkitGetAsEntry?.()), plain = [...transfer.files];
  if (!entries.some(entry => entry?.isDirectory)) return plain;
  const found = [];
  const walk = async entry => {
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
      if (!file.name.startsWith(".")) found.push(Object.assign(file, {path: entry.fullPath.slice(1)}));
      return;
    }
    const reader = entry.createReader();
    for (let some = [null]; some.length;) {
      some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      for (const each of some) await walk(each);
    }
  };
  for (const entry of entries) if (entry) await walk(entry);
  return found;
}

// The verdict

function show(item) {
  if (shown?.row) shown.row.removeAttribute("aria-current");
  if (shown) URL.revokeObjectURL(find("shown").src);
  shown = item;
  item.row.setAttribute("aria-current", "true");
  find("answer").hidden = false;
  find("name").replaceChildren(named(item.name));
  // A new element: the old one would show the last photo until this one is decoded.
  const picture = make("img", {id: "shown", className: "photo", alt: "The photo", hidden: Boolean(item.refused)});
  picture.src = URL.createObjectURL(item.file);
  find("shown").replaceWith(picture);
  const refused = () => make("p", {className: "refused"}, `This photo cannot be used: ${item.refused}.`);
  find("verdict").replaceChildren(item.refused ? refused() : verdict({classes, ...item}));
  find("time").textContent = item.seconds ? `${item.seconds.toFixed(2)} s` : "";
}

// The table

const label = item => item.refused ? "cannot be used" : item.decision ?? item.predicted;

function add(item) {
  const {refused, name} = item, undecided = refused || !classes.includes(label(item));
  const picture = make("img", {className: "thumbnail", alt: ""});
  if (item.picture) picture.src = URL.createObjectURL(item.picture);
  const open = make("button", {type: "button", className: "open"}, picture, named(name));
  open.addEventListener("click", () => { follows = false; show(item); find("answer").scrollIntoView({block: "nearest"}); });
  item.number = items.push(item);
  item.row = make("tr", {},
    make("td", {}, open),
    make("td", {className: undecided ? "undecided" : ""}, refused ? `cannot be used: ${refused}` : named(label(item))),
    make("td", {className: `number ${undecided ? "undecided" : ""}`}, refused ? "" : percent(item.certainty)));
  rows.append(item.row);
  const filter = find("filter");
  if (![...filter.options].some(({value}) => value === label(item))) filter.append(make("option", {value: label(item)}, label(item)));
  find("batch").hidden = items.length < 2;
  filterRow(item);
}

function filterRow(item) {
  const {selectedIndex, value} = find("filter"), part = find("search").value.toLowerCase();
  item.row.hidden = (selectedIndex > 0 && label(item) !== value) || !item.name.toLowerCase().includes(part);
}

function sortRows() {
  const {by, down} = order, key = {number: item => item.number, decision: label, certainty: item => item.certainty ?? -1}[by];
  const compare = (a, b) => a > b ? 1 : a < b ? -1 : 0;
  const sorted = [...items].sort((a, b) => (down ? -1 : 1) * compare(key(a), key(b)) || a.number - b.number);
  rows.append(...sorted.map(item => item.row));
  for (const button of document.querySelectorAll("[data-by]")) {
    const heading = button.closest("th");
    if (button.dataset.by === by) heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    else heading.removeAttribute("aria-sort");
  }
}

function clear() {
  cancel();
  if (current) current.cleared = true;
  for (const item of items) URL.revokeObjectURL(item.row.querySelector("img").src);
  [items, shown] = [[], null];
  rows.replaceChildren();
  find("filter").replaceChildren(make("option", {value: ""}, "all"));
  find("search").value = "";
  find("answer").hidden = find("batch").hidden = true;
  say("Cleared.");
}

/** The columns of predictions.csv in Python. */
function table() {
  const readable = items.filter(item => !item.refused), digits = value => String(Number(value.toPrecision(6)));
  const decides = readable.some(item => item.decision !== null);
  const columns = [
    ["path", item => cell(item.name)],
    ["predicted", item => cell(item.predicted)],
    ...(decides ? [["decision", item => cell(item.decision)], ["unlike", item => digits(item.unlike)]] : []),
    ...classes.map((name, index) => [cell(`prob_${name}`), item => digits(item.probabilities[index])]),
  ];
  return [columns.map(([name]) => name), ...readable.map(item => columns.map(([, value]) => value(item)))];
}

// Input

for (const id of ["choose", "camera"]) find(id).addEventListener("change", ({target}) => { ask([...target.files]); target.value = ""; });
document.addEventListener("dragover", event => { event.preventDefault(); document.body.classList.add("dragging"); });
document.addEventListener("dragleave", event => { if (!event.relatedTarget) document.body.classList.remove("dragging"); });
document.addEventListener("drop", async event => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  ask(await dropped(event.dataTransfer));
});
document.addEventListener("paste", ({clipboardData, target}) => {
  if (clipboardData.files.length) ask([...clipboardData.files]);
  else if (!target.matches("input")) say("There is no photo on the clipboard.");
});
document.addEventListener("keydown", event => {
  if (event.key === "Escape" && waiting.length) cancel();
  const row = event.target.closest("#rows tr"), step = {ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling"}[event.key];
  if (!row || !step) return;
  event.preventDefault();
  let other = row[step];
  while (other?.hidden) other = other[step];
  other?.querySelector("button").focus();
});
for (const button of document.querySelectorAll("[data-by]")) button.addEventListener("click", () => {
  const {by} = button.dataset;
  order = {by, down: order.by === by ? !order.down : by === "certainty"};
  sortRows();
});
find("filter").addEventListener("change", () => items.forEach(filterRow));
find("search").addEventListener("input", () => items.forEach(filterRow));
find("csv").addEventListener("click", () => save("predictions.csv", csv(table())));
find("clear").addEventListener("click", clear);
find("cancel").addEventListener("click", cancel);

// Start

find("filter").append(make("option", {value: ""}, "all"));
find("take").hidden = !matchMedia("(pointer: coarse)").matches;
find("about").textContent = [model, count(classes.length, "class", "classes")].filter(Boolean).join(", ");
find("accuracy").textContent = accuracy;
find("accuracy").hidden = !accuracy;
find("known").querySelector("summary").textContent = `It knows ${count(classes.length, "class", "classes")}`;
classes.forEach((name, index) => find("known").querySelector("p").append(index ? ", " : "", named(name)));
find("limitations").append(...limitations.map(text => make("li", {}, text)));
say("Loading the classifier …");
findParts().then(found => { parts = found; start(); }).catch(error => unusable(error.message));
