// Pages of photos to decide about: cards in a grid, the current one, full size, undo, and what the browser remembers.
// `cell` is a name as CSV files have it, `name` as it is shown. A page defines `makeCard(number)`, an element with
// `data-number` and figures with `data-photo`, and with the class `decided` once it is decided about.
const STEP = 100;  // cards that are added at once
const content = parsed("data"), {key, photos} = content;
const grid = find("grid"), end = find("end");
let past = [];  // functions that undo what was done, the last one last
let saved = true, filtered = [], rendered = 0;
let current = null, enlarged = null;  // cards: the one that keys are for, and the one at full size

const say = text => { find("status").textContent = text; };
const option = (text, value) => make("option", {textContent: text, value});

function undo() {
  if (past.length) past.pop()();
  else say("There is nothing to undo.");
}

/** Remember decisions in this browser; `saved` is whether they are in a file. */
function remember(decisions) {
  try { localStorage.setItem(key, JSON.stringify({saved, ...decisions})); } catch { /* forbidden, or full */ }
}

function remembered() {
  try { return JSON.parse(localStorage.getItem(key)); } catch { return null; /* forbidden */ }
}

window.addEventListener("beforeunload", event => { if (!saved) event.preventDefault(); });

// Nothing scrolls to behind the header, whose height depends on the width of the window.
new ResizeObserver(([{target}]) => {
  const covers = getComputedStyle(target).position === "sticky";
  document.documentElement.style.scrollPaddingTop = covers ? `${target.offsetHeight}px` : "";
}).observe(document.querySelector("header"));

// Cards

/** Fill an element with the thumbnail of a photo, as a button that shows it at full size. */
function showThumbnail(button, photo) {
  const {src, unreadable} = parsed(`photo-${photo}`);
  button.append(src ? make("img", {src, alt: ""}) : make("span", {}, `It cannot be read: ${unreadable}`));
  if (src) button.setAttribute("aria-label", `Full size: ${photos[photo].name}`);
  else button.disabled = true;
}

function more() {
  grid.append(...filtered.slice(rendered, rendered + STEP).map(makeCard));
  rendered = Math.min(rendered + STEP, filtered.length);
}

/** Show the cards of some numbers, or a text without any. */
function showCards(numbers, none) {
  filtered = numbers;
  rendered = 0;
  grid.replaceChildren();
  more();
  if (!numbers.length) grid.append(make("p", {className: "empty soft"}, none));
  makeCurrent([...grid.querySelectorAll(".card")].find(visible) ?? null);
  observe();
}

/** Show the card of a number that passes the filters. */
function bring(number) {
  while (rendered <= filtered.indexOf(number)) more();
  go(grid.querySelector(`[data-number="${number}"]`));
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

find("hide").addEventListener("click", ({target}) => {
  target.setAttribute("aria-pressed", grid.classList.toggle("hiding"));
  if (current && !visible(current)) makeCurrent([...grid.querySelectorAll(".card")].find(visible) ?? null);
  observe();
});

// The current card: keys are for it.

const visible = card => !(grid.classList.contains("hiding") && card.classList.contains("decided"));

function makeCurrent(card) {
  current?.classList.remove("current");
  current = card;
  current?.classList.add("current");
  grid.dispatchEvent(new Event("current"));
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

/** Move to a card beside the current one, by an arrow key. */
function move(forward, vertical) {
  if (!current || (!large.open && !current.contains(document.activeElement))) return go(current);
  let best = null;  // the next one, or the nearest in the next row
  for (const next of beside(current, forward)) {
    if (!vertical || large.open) { best = next; break; }
    if (next.offsetTop === current.offsetTop) continue;
    if (best && next.offsetTop !== best.offsetTop) break;
    if (!best || Math.abs(next.offsetLeft - current.offsetLeft) < Math.abs(best.offsetLeft - current.offsetLeft)) best = next;
  }
  go(best);
}

/** After a decision: the next card without one, or else the last before. */
function advance() {
  const undecided = cards => { for (const each of cards) if (!each.classList.contains("decided")) return each; };
  const next = undecided(beside(current, true)) ?? undecided(beside(current, false));
  if (next) go(next);
  else if (large.open) large.close();
  else current.focus({preventScroll: true});  // out of a control
  observe();
}

grid.addEventListener("focusin", ({target}) => makeCurrent(target.closest(".card")));
grid.addEventListener("click", ({target}) => { if (target.closest(".enlarge")) enlarge(target.closest("figure")); });

// Full size

const closeButton = make("button", {id: "close", type: "button"}, "Close");
const large = make("dialog", {id: "large", tabIndex: -1, "aria-labelledby": "large-name"},
  make("img", {id: "large-photo", className: "photo", alt: ""}),
  make("div", {className: "row"}, make("span", {id: "large-labels", className: "labels"}), make("span", {id: "large-name", className: "soft"}), make("span", {id: "large-note", className: "soft"}), make("span", {className: "space"}), closeButton));
document.body.append(large);
large.addEventListener("click", ({target}) => { if (target === large || target === closeButton) large.close(); });
large.addEventListener("close", () => go(enlarged));  // a browser returns to the photo that was enlarged first

/** Show a photo at full size, from its file; the thumbnail where there is none, or the browser cannot show it. */
function enlarge(element) {
  const {photo} = element.dataset, {src, file} = parsed(`photo-${photo}`), picture = make("img", {id: "large-photo", className: "photo", alt: ""});
  if (!src) return large.open && large.close();
  enlarged = element.closest(".card");
  find("large-name").textContent = photos[photo].name;
  find("large-labels").replaceChildren(...enlarged.querySelector(".labels")?.cloneNode(true).children ?? []);
  find("large-note").textContent = "";
  picture.addEventListener("error", () => {
    picture.src = src;
    find("large-note").textContent = "The thumbnail: this browser cannot show the file, or it is not on this machine.";
  }, {once: true});
  picture.src = file;
  find("large-photo").replaceWith(picture);
  if (!large.open) large.showModal();
  large.focus();  // keys are for the photo, not for a button
}

// Files

/** Let the visitor load a CSV file: `take` gets its name, header and rows. */
function whenLoaded(take) {
  find("load").addEventListener("click", () => find("file").click());
  find("file").addEventListener("change", async ({target}) => {
    if (!target.files.length) return;
    const [header = [], ...rows] = csvRows((await target.files[0].text()).replace(/^\ufeff/, ""));
    take(target.files[0].name, header, rows);
    target.value = "";
  });
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
