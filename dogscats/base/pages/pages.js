"use strict";
// What all pages share. Names are set as text, never as HTML.
const find = id => document.getElementById(id);
const parsed = id => JSON.parse(find(id).textContent);
const count = (n, noun, plural = `${noun}s`) => `${n.toLocaleString("en")} ${n === 1 ? noun : plural}`;

/** Make an element. `properties` that start with `aria-`, and `role`, are attributes. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("aria-") || name === "role" || name === "scope") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/** Name of a class or file, which may be written from right to left. */
const named = name => make("bdi", {}, name);

/** Percentages with one decimal that sum to 100: the largest remainders are rounded up. None is 0 or 100 by rounding. */
function percentages(probabilities) {
  const exact = probabilities.map(value => value * 1000), tenths = exact.map(Math.floor);
  const order = [...exact.keys()].sort((a, b) => exact[b] - tenths[b] - (exact[a] - tenths[a]));
  const missing = 1000 - tenths.reduce((sum, each) => sum + each, 0);
  for (const index of order.slice(0, Math.max(0, missing))) tenths[index]++;
  return tenths.map((each, index) => {
    if (each === 0 && probabilities[index] > 0) return "< 0.1 %";
    return each === 1000 && probabilities[index] < 1 ? "> 99.9 %" : `${(each / 10).toFixed(1)} %`;
  });
}

/** The class of a photo, `unsure`, or `none`: the latter in parentheses if a class is called so. */
function decide(classes, probabilities, unlike, {unsure_below, none_above}) {
  const best = Math.max(...probabilities);
  let word = unlike > none_above ? "none" : best < unsure_below ? "unsure" : "";
  while (word && classes.includes(word)) word = `(${word})`;
  return word || classes[probabilities.indexOf(best)];
}

/**
 * The verdict of a photo: its decision, and bars of the most probable classes; grey ones if it gets no class.
 * `decision` is null for a classifier that does not decide.
 */
function verdict({classes, probabilities, decision}, most = 10) {
  const shown = percentages(probabilities);
  const ranked = [...classes.keys()].sort((a, b) => probabilities[b] - probabilities[a]);
  const [first] = ranked, word = classes.includes(decision) ? "" : (decision ?? "").replace(/[()]/g, "");
  const [kind, title, why] = {
    unsure: ["unsure", "Unsure", ["perhaps ", named(classes[first])]],
    none: ["none", "None of these", ["it is unlike any class"]],
  }[word] ?? ["certain", named(classes[first]), [`with a probability of ${shown[first]}`]];
  const bars = ranked.slice(0, most).map(index => {
    const filled = make("span"), value = probabilities[index];
    filled.style.width = `${100 * value}%`;
    const meter = {className: "bar", role: "meter", "aria-label": classes[index], "aria-valuemin": 0, "aria-valuemax": 1};
    return make("li", {},
      make("span", {}, named(classes[index])),
      make("span", {...meter, "aria-valuenow": value.toFixed(6), "aria-valuetext": shown[index]}, filled),
      make("span", {className: "number"}, shown[index]));
  });
  const rest = ranked.length - bars.length;
  return make("div", {className: `verdict ${kind}`},
    make("p", {className: "decision"}, make("b", {}, title), " ", make("span", {}, ...why)),
    ...(kind === "certain" ? [] : [make("p", {className: "choice"}, "If it had to choose:")]),
    make("ul", {className: "bars"}, ...bars),
    ...(rest > 0 ? [make("p", {className: "soft"}, `and ${rest} less probable ones`)] : []));
}

/** Text as this project's CSV files have it: no control characters, and nothing that a spreadsheet takes for a formula. */
function cell(value) {
  const text = String(value).replace(/[\p{C}\p{Zl}\p{Zp}]|(?! )\p{Zs}/gu, char => {
    const code = char.codePointAt(0), short = {9: "\\t", 10: "\\n", 13: "\\r"}[code];
    const [letter, digits] = code < 256 ? ["x", 2] : code < 65536 ? ["u", 4] : ["U", 8];
    return short ?? `\\${letter}${code.toString(16).padStart(digits, "0")}`;
  });
  return /^[=+\-@]/.test(text) && !Number.isFinite(Number(text)) ? `'${text}` : text;
}

function csv(rows) {
  const quoted = text => /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  return rows.map(row => row.map(value => quoted(String(value))).join(",") + "\n").join("");
}

/** Let the visitor save text as a file. */
function save(name, text, type = "text/csv") {
  const url = URL.createObjectURL(new Blob([text], {type}));
  make("a", {href: url, download: name}).click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}
