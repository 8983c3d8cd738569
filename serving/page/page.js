// The page for people. Everything that comes from an article or from the service is set as text, never as markup.

const LIMIT = 200_000;
const LARGEST_FILE = 8 * 2 ** 20;
const OFF_TOPIC = "off_topic";
const SYMBOLS = { supportive: "▲", neutral: "●", restrictive: "▼" };
const HEADS = ["topic", "stance"];
const BATCH = 150; // passages put in at once: a long article leaves the browser time to breathe
const DWELL = 150; // milliseconds on a passage before it is worth an explanation

const $ = (id) => document.getElementById(id);
const number = (n) => n.toLocaleString("en-GB");
const plural = (n, one) => `${number(n)} ${one}${n === 1 ? "" : "s"}`;
const words = (label) => label.replaceAll("_", " ");
const symbol = (label) => (SYMBOLS[label] ? `${SYMBOLS[label]} ` : "");

function percent(share) {
  if (share > 0 && share < 0.005) return "<1%";
  if (share < 1 && share > 0.995) return ">99%";
  return `${Math.round(share * 100)}%`;
}

function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  set(element, attributes);
  element.append(...children);
  return element;
}

function draw(name, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  set(element, attributes);
  element.append(...children);
  return element;
}

function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null && value !== false)
      element.setAttribute(name, value === true ? "" : value);
  }
}

// ---------------------------------------------------------------------------------------------- characters

export function characters(text) {
  let count = text.length;
  for (let at = 0; at < text.length; at++) if (text.codePointAt(at) > 0xffff) ((count -= 1), (at += 1));
  return count;
}

// The service counts characters, JavaScript counts UTF-16 units: a function from the one to the other.
export function unitsOf(text) {
  if (characters(text) === text.length) return (offset) => offset;
  const units = [0];
  for (const character of text) units.push(units.at(-1) + character.length);
  return (offset) => units[Math.min(offset, units.length - 1)];
}

// ------------------------------------------------------------------------------------------------- service

const kept = {
  get token() {
    try {
      return sessionStorage.getItem("token");
    } catch {
      return this.inMemory;
    }
  },
  set token(value) {
    this.inMemory = value;
    try {
      sessionStorage.setItem("token", value);
    } catch {
      /* private mode */
    }
  },
};

async function call(path, { body, headers = {}, ask = true } = {}) {
  for (;;) {
    const all = { ...headers };
    if (body !== undefined) all["Content-Type"] = "application/json";
    // Header values are bytes: the token goes as its UTF-8 bytes.
    if (kept.token) all.Authorization = `Bearer ${String.fromCharCode(...new TextEncoder().encode(kept.token))}`;
    let response;
    try {
      response = await fetch(path, {
        method: body === undefined ? "GET" : "POST",
        headers: all,
        body: body && JSON.stringify(body),
      });
    } catch {
      throw new Error("The service cannot be reached. Check that it still runs, then try again.");
    }
    if (response.status === 401 && ask) {
      await askForToken();
      continue;
    }
    const answer = await response.json().catch(() => null);
    if (response.ok && answer) return answer;
    throw new Error(inWords(response, answer?.error ?? `status ${response.status}`));
  }
}

function inWords(response, error) {
  const after = response.headers.get("Retry-After");
  switch (response.status) {
    case 400:
      return `The service could not take this: ${error}.`;
    case 401:
      return `The service wants its token: ${error}.`;
    case 413:
      return `This is too large for the service: ${error}.`;
    case 429:
    case 503:
      return `The service is busy (${error}). Try again ${after ? `in ${plural(Number(after), "second")}` : "soon"}.`;
    default:
      return `The service failed: ${error}.`;
  }
}

let asking = null;
function askForToken() {
  asking ??= new Promise((resolve, reject) => {
    const dialog = $("token");
    const form = dialog.querySelector("form");
    $("secret").value = "";
    $("refused").hidden = !kept.token;
    const done = new AbortController();
    form.addEventListener(
      "submit",
      (event) => {
        event.preventDefault();
        if (!$("secret").value) return;
        kept.token = $("secret").value;
        dialog.close("given");
      },
      done,
    );
    form.querySelector("[type=button]").addEventListener("click", () => dialog.close(""), done);
    dialog.returnValue = "";
    dialog.addEventListener(
      "close",
      () => {
        done.abort();
        asking = null;
        if (dialog.returnValue) resolve();
        else reject(new Error("The service wants a token, and none was given."));
      },
      done,
    );
    dialog.showModal();
  });
  return asking;
}

const about = { codebook: null, model: null };
async function learn(ask) {
  about.codebook ??= await call("codebook", { ask });
  about.model ??= await call("model", { ask });
  const { name, version, candidate, codebook } = about.model;
  $("served").textContent =
    `Served: ${name} version ${version} (${candidate}), codebook version ${codebook}. ` +
    "Labels are about words, not about people.";
  showCodebook();
}

// Whether what the page knows of the model is of the one that gave an answer.
const isOf = ({ version, data_digest: digest }) =>
  about.model.version === version && about.model.data_digest === digest;

const names = (head) => about.codebook[head === "topic" ? "topics" : "stances"].map((label) => label.name);
const definition = (head, name) =>
  about.codebook[head === "topic" ? "topics" : "stances"].find((label) => label.name === name)?.definition ?? "";

// ---------------------------------------------------------------------------------------------------- form

const article = $("article");

function count() {
  const length = characters(article.value);
  $("count").textContent = `${number(length)} of ${number(LIMIT)} characters`;
  $("count").classList.toggle("over", length > LIMIT);
  return length;
}

function say(problem) {
  $("error").textContent = problem;
  set(article, { "aria-invalid": problem ? "true" : "false" });
}

let busy = false;
async function read() {
  if (busy) return;
  say("");
  $("status").textContent = "";
  const length = count();
  if (!article.value.trim())
    return complain("There is nothing to read yet: paste an article, choose a file or try the example.");
  if (length > LIMIT)
    return complain(
      `The article has ${plural(length, "character")}; the limit is ${number(LIMIT)}. ` +
        `Shorten it by ${number(length - LIMIT)}.`,
    );
  busy = true;
  set($("read"), { "aria-disabled": "true" });
  $("status").textContent = "Reading…";
  try {
    await learn(true);
    const answer = await call("read", { body: { article: article.value, title: null } });
    if (!isOf(answer.model)) {
      // Another model has been deployed since the page was opened.
      Object.assign(about, { codebook: await call("codebook"), model: await call("model") });
      await learn(true);
      if (!isOf(answer.model)) throw new Error("The service is changing its model. Try again in a minute.");
    }
    const { passages, abstained } = answer.summary;
    await show(answer);
    $("status").textContent =
      `${plural(passages, "passage")}, ${number(abstained)} of them uncertain: there the model abstained.`;
  } catch (error) {
    $("status").textContent = "";
    complain(error.message);
  } finally {
    busy = false;
    $("read").removeAttribute("aria-disabled");
  }
}

function complain(problem) {
  say(problem);
  article.focus();
}

async function open(file) {
  if (!file) return;
  say("");
  if (!/\.(txt|html?)$/i.test(file.name)) return say(`“${file.name}” is neither a .txt nor an .html file.`);
  if (file.size > LARGEST_FILE) return say(`“${file.name}” is larger than 8 MB.`);
  const bytes = await file.arrayBuffer().catch(() => null);
  if (!bytes) return say(`“${file.name}” cannot be read.`);
  const [first, second] = new Uint8Array(bytes);
  try {
    const wide =
      first === 0xff && second === 0xfe ? "utf-16le" : first === 0xfe && second === 0xff ? "utf-16be" : "utf-8";
    article.value = new TextDecoder(wide, { fatal: true }).decode(bytes);
  } catch {
    article.value = new TextDecoder("windows-1252").decode(bytes);
  }
  count();
  $("status").textContent = `“${file.name}” is in the box.`;
  $("read").focus();
}

// ------------------------------------------------------------------------------------------------- results

let answer = null;
let items = []; // one a passage: what the service said, what the reader corrected, and the elements on the page
let active = null; // the passage that the Tab key reaches
let shown = null; // the passage that the panel speaks of

async function show(given) {
  answer = given;
  closeMenu();
  items = answer.passages.map((passage, index) => ({
    number: index + 1,
    passage,
    explanation: passage.explanation ?? null,
    correction: null,
  }));
  active = shown = null;
  $("results").hidden = false;
  $("results-title").textContent = items.length ? plural(items.length, "passage") : "No passages";
  summarise();
  tellMethods();
  emptyPanel();
  const list = $("passages");
  list.replaceChildren();
  const units = unitsOf(answer.article);
  for (let from = 0; from < items.length; from += BATCH) {
    const rows = items.slice(from, from + BATCH).map((item, index) => {
      const before = items[from + index - 1];
      const gap = before ? answer.article.slice(units(before.passage.end), units(item.passage.start)) : "\n";
      return row(item, /[\n\r\v\f\u0085\u2028\u2029]/.test(gap));
    });
    list.append(...rows);
    if (from === 0) {
      activate(items[0]);
      $("results-title").focus({ preventScroll: true });
      $("results-title").scrollIntoView();
    }
    await new Promise((resolve) => setTimeout(resolve));
    if (answer !== given) return;
  }
}

function row(item, opens) {
  item.chips = Object.fromEntries(
    HEADS.map((head) => [
      head,
      make("button", {
        type: "button",
        class: `chip ${head}`,
        "data-head": head,
        "aria-haspopup": "menu",
        "aria-expanded": "false",
        tabindex: "-1",
      }),
    ]),
  );
  item.state = make("span", { class: "state" });
  item.flag = make("span", { class: "flag" }, "◌ abstained");
  item.text = make("p", { class: "text" }, item.passage.text);
  item.problem = make("p", { class: "problem" });
  item.row = make(
    "li",
    { class: opens ? "passage opens" : "passage", tabindex: "-1", "data-number": item.number },
    make(
      "div",
      { class: "kicker" },
      make("span", { class: "place" }, String(item.number)),
      item.chips.topic,
      item.chips.stance,
      item.flag,
      item.state,
    ),
    item.text,
    item.problem,
  );
  dress(item);
  return item.row;
}

// What holds for a passage now: the reader's word before the model's.
function held(item) {
  const { topic, stance } = item.passage;
  return item.correction ?? { topic: topic.label, stance: stance?.label ?? null };
}

function dress(item) {
  const { passage, chips, correction } = item;
  const now = held(item);
  for (const head of HEADS) {
    const label = now[head];
    const model = passage[head];
    const own = model && model.label === label;
    chips[head].replaceChildren(
      make("b", {}, label ? symbol(label) + words(label) : "choose a stance"),
      own ? ` ${percent(model.confidence)}` : "",
    );
    chips[head].className = `chip ${head} ${head === "stance" && label ? label : ""}`;
    chips[head].dataset.label = label ?? "";
    set(chips[head], {
      "aria-label":
        `${head} of passage ${item.number}: ${label ? words(label) : "none yet"}` +
        `${own ? ` ${percent(model.confidence)}` : ", corrected"}. Correct it`,
    });
  }
  chips.stance.hidden = now.topic === OFF_TOPIC;
  item.flag.hidden = !passage.abstained;
  item.row.classList.remove(...Object.keys(SYMBOLS));
  if (now.stance) item.row.classList.add(now.stance);
  item.row.classList.toggle("unsure", passage.abstained);
  const wrong = HEADS.map((head) => passage[head]?.label ?? null).filter(
    (label, index) => label && label !== now[HEADS[index]],
  );
  const done = wrong.length ? `✎ corrected, was ${wrong.map(words).join(", ")}` : "✓ confirmed";
  item.state.textContent = !correction
    ? ""
    : { halved: "not sent yet: choose a stance", sending: "sending…", stored: done, failed: "✗ not stored" }[
        correction.state
      ];
  item.problem.replaceChildren();
  if (correction?.state === "failed") {
    const again = make("button", { type: "button" }, "Try again");
    again.addEventListener("click", () => {
      item.row.focus();
      send(item, correction);
    });
    item.problem.append(`The correction was not stored. ${correction.error}`, again);
  }
}

function activate(item) {
  if (!item || active === item) return;
  for (const [each, index] of [
    [active, "-1"],
    [item, "0"],
  ]) {
    for (const element of each ? [each.row, each.chips.topic, each.chips.stance] : [])
      set(element, { tabindex: index });
  }
  active = item;
}

const itemOf = (target) => items[target.closest?.(".passage")?.dataset.number - 1];

// ----------------------------------------------------------------------------------------------- the panel

function emptyPanel() {
  $("panel").classList.add("empty");
  $("panel").replaceChildren(
    make(
      "p",
      { class: "fine" },
      "Point at a passage, or move to it with the keyboard: here stand the scores of all labels, " +
        "what the label means, and the words that moved the answer.",
    ),
  );
}

function leave() {
  if (!shown) return;
  shown.row.classList.remove("shown");
  shown.row.removeAttribute("aria-describedby");
  shown.text.replaceChildren(shown.passage.text);
  if (shown.explanation?.problem) shown.explanation = null; // it is tried again
  shown = null;
}

function inspect(item) {
  if (shown === item) return;
  leave();
  shown = item;
  item.row.classList.add("shown");
  set(item.row, { "aria-describedby": "topic-definition" });
  fillPanel();
  $("panel").scrollTop = 0;
  if (!item.explanation) setTimeout(explainShown, DWELL, item);
}

// One at a time, and only of what is looked at: an explanation costs the service some 25 readings.
let explaining = false;
async function explainShown(item) {
  if (explaining || item !== shown || item.explanation) return;
  explaining = true;
  try {
    const { readings } = await call("classify?explain=true", { body: { passages: [item.passage.text] }, ask: false });
    item.explanation = readings[0].explanation;
  } catch (error) {
    item.explanation = { problem: error.message };
  } finally {
    explaining = false;
  }
  if (item === shown) fillPanel();
  else if (shown) explainShown(shown);
}

function fillPanel() {
  const item = shown;
  const { passage, explanation } = item;
  const now = held(item);
  const close = make("button", { type: "button", class: "close", "aria-label": "Close" }, "✕");
  close.addEventListener("click", () => {
    item.row.focus();
    leave();
    emptyPanel();
  });
  const parts = [make("h3", {}, `Passage ${item.number} of ${number(items.length)}`, close)];
  if (passage.abstained) {
    parts.push(
      make(
        "p",
        { class: "fine" },
        `The model abstained: its confidence in the topic, ${percent(passage.topic.confidence)}, is under its ` +
          `threshold of ${percent(about.model.threshold)}. The label is its best guess.`,
      ),
    );
  }
  for (const head of HEADS) {
    const label = now[head];
    if (!label) continue;
    parts.push(
      make("h4", {}, `${head === "topic" ? "Topic" : "Stance"}: ${symbol(label)}${words(label)}`),
      make("p", { id: `${head}-definition` }, definition(head, label)),
    );
    if (passage[head]) parts.push(scores(head, passage[head]), ...moved(head, passage[head].label, explanation));
  }
  $("panel").classList.remove("empty");
  $("panel").replaceChildren(...parts);
  underline(item);
}

function scores(head, { label, scores }) {
  const rows = Object.entries(scores)
    .sort((a, b) => b[1] - a[1])
    .map(([name, score]) =>
      make(
        "tr",
        { class: name === label ? "given" : "" },
        make("th", { scope: "row" }, symbol(name) + words(name)),
        make("td", {}, draw("svg", { "aria-hidden": "true" }, bar(score, head === "stance" ? name : ""))),
        make("td", { class: "number" }, percent(score)),
      ),
    );
  return table(`Scores of every ${head}`, [head, "Bar", "Score"], rows);
}

function moved(head, label, explanation) {
  if (!explanation) return [make("p", { class: "fine" }, "Looking for the words that moved the answer…")];
  if (explanation.problem)
    return [
      make("p", { class: "fine" }, `Which words moved the answer could not be found out. ${explanation.problem}`),
    ];
  const marks = explanation[head] ?? [];
  if (!marks.length) return [make("p", { class: "fine" }, "No single words stand out.")];
  const units = unitsOf(shown.passage.text);
  const list = (side, chosen) => {
    if (!chosen.length) return [];
    const phrases = chosen.map(({ start, end }) => `“${shown.passage.text.slice(units(start), units(end))}”`);
    return [
      make(
        "li",
        {},
        make("span", { class: `${head}-${side}` }, side === "for" ? "For" : "Against"),
        ` ${words(label)}: ${phrases.join(", ")}`,
      ),
    ];
  };
  return [
    make(
      "ul",
      { "aria-label": `Words that moved the ${head}` },
      ...list(
        "for",
        marks.filter((mark) => mark.weight > 0),
      ),
      ...list(
        "against",
        marks.filter((mark) => mark.weight < 0),
      ),
    ),
  ];
}

function underline({ passage, text, explanation }) {
  const marks = HEADS.flatMap((head) => (explanation?.[head] ?? []).map((mark) => ({ ...mark, head })));
  if (!marks.length) return;
  const units = unitsOf(passage.text);
  const edges = [
    ...new Set([0, ...marks.flatMap((mark) => [units(mark.start), units(mark.end)]), passage.text.length]),
  ].sort((a, b) => a - b);
  text.replaceChildren(
    ...edges.slice(0, -1).map((from, index) => {
      let piece = document.createTextNode(passage.text.slice(from, edges[index + 1]));
      for (const { head, start, end, weight } of marks) {
        if (units(start) <= from && from < units(end))
          piece = make("span", { class: `${head}-${weight > 0 ? "for" : "against"}` }, piece);
      }
      return piece;
    }),
  );
}

// ------------------------------------------------------------------------------------------------- summary

function table(caption, columns, rows) {
  const heads = columns.map((name) => make("th", { scope: "col" }, name));
  return make(
    "table",
    {},
    make("caption", {}, caption),
    make("thead", {}, make("tr", {}, ...heads)),
    make("tbody", {}, ...rows),
  );
}

function bar(share, kind) {
  const drawn = document.createDocumentFragment();
  drawn.append(
    draw("rect", { class: "track", width: "100%", height: "100%" }),
    draw("rect", { class: `share ${kind}`, width: `${share * 100}%`, height: "100%" }),
  );
  return drawn;
}

function whisker(low, high, y = "50%") {
  const drawn = document.createDocumentFragment();
  drawn.append(draw("line", { class: "whisker", x1: `${low}%`, x2: `${high}%`, y1: y, y2: y }));
  for (const end of [low, high])
    drawn.append(draw("line", { class: "whisker", x1: `${end}%`, x2: `${end}%`, y1: "25%", y2: "75%" }));
  return drawn;
}

function shares(caption, given, kinds) {
  const rows = Object.entries(given).map(([name, { count, share, low, high }]) =>
    make(
      "tr",
      { class: count ? "" : "none" },
      make("th", { scope: "row" }, symbol(name) + words(name)),
      make(
        "td",
        {},
        draw("svg", { "aria-hidden": "true" }, bar(share, kinds ? name : ""), whisker(low * 100, high * 100)),
      ),
      make("td", { class: "number" }, String(count)),
      make("td", { class: "number" }, `${percent(share)} `, make("small", {}, `[${percent(low)}, ${percent(high)}]`)),
    ),
  );
  return table(caption, ["Label", "Bar", "Passages", "Share and 95% interval"], rows);
}

function summarise() {
  const { topics, stances, stance_balance: balance, on_topic: onTopic } = answer.summary;
  const sorted = Object.fromEntries(
    Object.entries(topics).sort((a, b) => (a[0] === OFF_TOPIC) - (b[0] === OFF_TOPIC) || b[1].count - a[1].count),
  );
  $("summary").replaceChildren(
    shares("Topics, share of all passages", sorted, false),
    make(
      "div",
      { class: "sides" },
      shares(`Stances, share of ${number(onTopic)} on topic`, stances, true),
      balanceOf(balance),
    ),
  );
}

function balanceOf({ value, low, high }) {
  const title = make("h3", {}, "Balance of the stances");
  if (value === null)
    return make("div", { class: "balance" }, title, make("p", {}, "No passage is on topic, so there is no balance."));
  const at = (side) => 50 + side * 48;
  const signed = (side) => (side > 0 ? "+" : side < 0 ? "−" : "") + Math.abs(side).toFixed(2);
  const interval = low === null ? "" : `, 95% interval ${signed(low)} to ${signed(high)}`;
  const picture = draw(
    "svg",
    { "aria-hidden": "true" },
    draw("line", { class: "axis", x1: "2%", x2: "98%", y1: "50%", y2: "50%" }),
    draw("line", { class: "axis", x1: "50%", x2: "50%", y1: "10%", y2: "90%" }),
  );
  if (low !== null) picture.append(whisker(at(low), at(high)));
  picture.append(draw("circle", { cx: `${at(value)}%`, cy: "50%", r: "5.5" }));
  const ends = make(
    "div",
    { class: "ends" },
    make("span", {}, "▼ −1 all restrictive"),
    make("span", {}, "all supportive +1 ▲"),
  );
  return make("div", { class: "balance" }, title, picture, ends, make("p", {}, `${signed(value)}${interval}`));
}

// --------------------------------------------------------------------------------------------- corrections

let menu = null;

function openMenu(item, head) {
  closeMenu();
  const chip = item.chips[head];
  const label = held(item)[head];
  const options = names(head).map((name) => {
    const score = item.passage[head]?.scores[name];
    const option = make(
      "button",
      {
        type: "button",
        role: "menuitemradio",
        "aria-checked": String(name === label),
        tabindex: "-1",
        "data-label": name,
      },
      make("span", {}, symbol(name) + words(name)),
      make("small", {}, score === undefined ? "" : percent(score)),
    );
    option.addEventListener("click", () => {
      closeMenu();
      chip.focus();
      correct(item, head, name);
    });
    return option;
  });
  const element = make(
    "div",
    { class: "menu", role: "menu", "aria-label": `Correct the ${head} of passage ${item.number}` },
    ...options,
  );
  menu = { element, chip, options };
  $("results").append(element);
  set(chip, { "aria-expanded": "true" });
  const box = chip.getBoundingClientRect();
  const below = innerHeight - box.bottom - 8;
  const up = below < element.offsetHeight && box.top > below;
  // The object model, not a style attribute, which the policy forbids.
  const room = document.documentElement.clientWidth - element.offsetWidth - 8;
  element.style.left = `${Math.max(8, Math.min(box.left, room)) + scrollX}px`;
  element.style.top = `${(up ? Math.max(8, box.top - element.offsetHeight - 4) : box.bottom + 4) + scrollY}px`;
  (options.find((option) => option.dataset.label === label) ?? options[0]).focus({ preventScroll: up });
}

function closeMenu() {
  menu?.element.remove();
  if (menu) set(menu.chip, { "aria-expanded": "false" });
  menu = null;
}

function menuKey(event) {
  const { options, chip } = menu;
  const at = options.indexOf(document.activeElement);
  const to = {
    ArrowDown: (at + 1) % options.length,
    ArrowUp: (at + options.length - 1) % options.length,
    Home: 0,
    End: options.length - 1,
  }[event.key];
  if (to !== undefined) options[to].focus();
  else if (event.key === "Escape" || event.key === "Tab") {
    closeMenu();
    chip.focus();
  } else if (/^[a-z]$/i.test(event.key) && !event.ctrlKey && !event.metaKey && !event.altKey) {
    const next = [...options.slice(at + 1), ...options.slice(0, at + 1)].find((option) =>
      option.dataset.label.startsWith(event.key.toLowerCase()),
    );
    next?.focus();
  } else return;
  if (event.key !== "Tab") event.preventDefault();
  event.stopPropagation();
}

function correct(item, head, label) {
  const now = held(item);
  const next = { topic: now.topic, stance: now.stance, [head]: label };
  if (next.topic === OFF_TOPIC) next.stance = null;
  else next.stance ??= item.passage.stance?.label ?? null;
  // The same key when it is sent again: the service stores it once. Without HTTPS a page has no randomUUID.
  const correction = { ...next, key: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`, state: "sending" };
  if (next.topic === OFF_TOPIC || next.stance) return send(item, correction);
  item.correction = { ...correction, state: "halved" };
  redress(item);
  openMenu(item, "stance");
}

async function send(item, correction) {
  item.correction = correction;
  correction.state = "sending";
  redress(item);
  const { topic, stance, abstained, text } = item.passage;
  // Corrections of one passage arrive in the order in which they were made.
  item.queue = (item.queue ?? Promise.resolve()).then(async () => {
    try {
      await call("feedback", {
        headers: { "Idempotency-Key": correction.key },
        body: {
          passage: text,
          topic: correction.topic,
          stance: correction.stance,
          reading: { topic, stance, abstained },
        },
      });
      correction.state = "stored";
      $("status").textContent = `The correction of passage ${item.number} is stored.`;
    } catch (error) {
      correction.state = "failed";
      correction.error = error.message;
      $("status").textContent = `The correction of passage ${item.number} was not stored.`;
    }
    redress(item);
  });
}

function redress(item) {
  if (!item.row.isConnected) return;
  dress(item);
  if (item === shown) fillPanel();
  tellMethods();
}

// ------------------------------------------------------------------------------------------- what is taken

// A spreadsheet runs a cell that begins so as a formula; an apostrophe before it makes it text.
const harmless = (cell) => (/^[=+\-@\t\r]/.test(cell) ? `'${cell}` : cell);
const quoted = (cell) => (/[",\r\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell);

export function asCsv(table) {
  return table.map((cells) => cells.map((cell) => quoted(harmless(String(cell ?? "")))).join(",") + "\r\n").join("");
}

const stored = (item) => (item.correction ? item.correction.state === "stored" : null);

function csvTable() {
  const { name, version, codebook, data_digest: digest } = answer.model;
  const columns = [
    "number",
    "start",
    "end",
    "text",
    "topic",
    "topic_confidence",
    "stance",
    "stance_confidence",
    "abstained",
    "corrected_topic",
    "corrected_stance",
    "correction_stored",
    "model",
    "version",
    "codebook",
    "data_digest",
  ];
  return [
    columns,
    ...items.map((item) => {
      const { start, end, text, topic, stance, abstained } = item.passage;
      return [
        item.number,
        start,
        end,
        text,
        topic.label,
        topic.confidence,
        stance?.label,
        stance?.confidence,
        abstained,
        item.correction?.topic,
        item.correction?.stance,
        stored(item),
        name,
        version,
        codebook,
        digest,
      ];
    }),
  ];
}

function jsonDocument() {
  const passages = items.map((item) => {
    const { text, start, end, topic, stance, abstained } = item.passage;
    return {
      text,
      start,
      end,
      topic,
      stance,
      abstained,
      corrected_topic: item.correction?.topic ?? null,
      corrected_stance: item.correction?.stance ?? null,
      correction_stored: stored(item),
    };
  });
  return { article: answer.article, passages, summary: answer.summary, model: answer.model };
}

function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  make("a", { href: url, download: name }).click();
  setTimeout(URL.revokeObjectURL, 10_000, url);
}

const EVALUATIONS = {
  news_dev: "passages of real news on which nothing was trained or chosen",
  test: "held-out passages of the test split",
  validation: "passages of the validation split",
};

function tellMethods() {
  const { name, version, codebook, data_digest: digest } = answer.model;
  const { candidate, threshold, quality } = about.model;
  const { passages, on_topic: onTopic, abstained } = answer.summary;
  const where = Object.keys(EVALUATIONS).find(
    (evaluation) => quality?.[evaluation]?.topic && quality[evaluation].stance,
  );
  const figure = ([value, low, high]) => `${value.toFixed(3)} [${low.toFixed(3)}, ${high.toFixed(3)}]`;
  const measured = where
    ? `Measured on ${EVALUATIONS[where]}, its macro-F1 (with 95% interval) is ` +
      `${figure(quality[where].topic.macro_f1)} for topic and ${figure(quality[where].stance.macro_f1)} for stance.`
    : "Its quality is not stated.";
  const corrected = items.filter((item) => item.correction?.state === "stored").length;
  $("methods").textContent = [
    `The article was cut into ${plural(passages, "passage")}, of which ${number(onTopic)} were read as on topic, ` +
      `and each was labelled by topic and stance with the model ${name}, version ${version} ` +
      `(candidate ${candidate}, data digest ${digest.slice(0, 16)}), under codebook version ${codebook}.`,
    measured,
    `The model abstained on ${plural(abstained, "passage")}, ` +
      `where its confidence in the topic was under ${threshold.toFixed(3)}.`,
    corrected
      ? `Labels of ${plural(corrected, "passage")} were corrected or confirmed by hand; ` +
        `the shares are those before correction.`
      : "",
  ]
    .filter(Boolean)
    .join(" ");
}

async function copy() {
  try {
    await navigator.clipboard.writeText($("methods").textContent);
  } catch {
    // Without HTTPS there is no clipboard for a page: select the text, which the older command copies.
    getSelection().selectAllChildren($("methods"));
    if (!document.execCommand("copy")) {
      $("status").textContent = "The text is selected, but could not be copied: press Ctrl+C.";
      return;
    }
  }
  $("copy").textContent = "Copied";
  $("status").textContent = "The text is in the clipboard.";
  setTimeout(() => {
    $("copy").textContent = "Copy the text";
  }, 2_000);
}

function showCodebook() {
  const { topics, stances, rules } = about.codebook;
  const list = (title, entries) => [
    make("h3", {}, title),
    make(
      "dl",
      {},
      ...entries.map(([name, text, example]) =>
        make(
          "div",
          {},
          make("dt", {}, name),
          make("dd", {}, text),
          ...(example ? [make("dd", { class: "fine" }, `Example: ${example}`)] : []),
        ),
      ),
    ),
  ];
  const labels = (given) =>
    given.map((label) => [symbol(label.name) + words(label.name), label.definition, label.example]);
  $("codebook")
    .querySelector("div")
    .replaceChildren(
      ...list("Topics", labels(topics)),
      ...list("Stances", labels(stances)),
      ...list(
        "Rules",
        rules.map((rule) => [rule.name, rule.text]),
      ),
    );
  $("codebook").hidden = false;
}

// -------------------------------------------------------------------------------------------------- wiring

function wireForm() {
  const form = $("form");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    read();
  });
  article.addEventListener("input", () => {
    say("");
    count();
  });
  article.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) read();
  });
  $("try").addEventListener("click", () => {
    article.value = [...$("example").content.children].map((paragraph) => paragraph.textContent).join("\n\n");
    count();
    read();
  });
  $("choose").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", () => {
    open($("file").files[0]);
    $("file").value = "";
  });
  // Anywhere on the page: a file dropped beside the box would otherwise replace the page.
  const files = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragover", (event) => {
    if (files(event)) (event.preventDefault(), form.classList.add("dragging"));
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) form.classList.remove("dragging");
  });
  addEventListener("drop", (event) => {
    form.classList.remove("dragging");
    if (files(event)) (event.preventDefault(), open(event.dataTransfer.files[0]));
  });
}

function wirePassages() {
  const list = $("passages");
  let dwelling;
  let at = "";
  list.addEventListener("pointermove", (event) => {
    // A page that scrolls under a resting mouse must not take the panel from the keyboard.
    const here = `${event.screenX} ${event.screenY}`;
    if (here === at) return;
    at = here;
    clearTimeout(dwelling);
    const item = itemOf(event.target);
    if (item && !menu)
      dwelling = setTimeout(() => {
        if (item.row.isConnected && !menu) inspect(item);
      }, 60);
  });
  list.addEventListener("pointerleave", () => clearTimeout(dwelling));
  list.addEventListener("focusin", (event) => {
    const item = itemOf(event.target);
    if (item) (activate(item), inspect(item));
  });
  list.addEventListener("click", (event) => {
    const chip = event.target.closest(".chip");
    const item = itemOf(event.target);
    if (item) (activate(item), inspect(item));
    if (!chip) return;
    if (menu?.chip === chip) closeMenu();
    else openMenu(item, chip.dataset.head);
  });
  list.addEventListener("keydown", (event) => {
    const item = itemOf(event.target);
    if (!item || event.ctrlKey || event.metaKey || event.altKey) return;
    const chip = event.target.closest(".chip");
    if (chip && event.key === "ArrowDown") openMenu(item, chip.dataset.head);
    else if (event.target === item.row && event.key === "Enter") openMenu(item, "topic");
    else {
      const to = { ArrowDown: item.number, ArrowUp: item.number - 2, Home: 0, End: items.length - 1 }[event.key];
      if (to === undefined || chip) return;
      items[to]?.row.focus();
    }
    event.preventDefault();
  });
  $("results").addEventListener("keydown", (event) => {
    if (menu?.element.contains(event.target)) menuKey(event);
  });
  addEventListener("pointerdown", (event) => {
    if (menu && !menu.element.contains(event.target) && !menu.chip.contains(event.target)) closeMenu();
  });
  addEventListener("resize", closeMenu);
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && shown && !$("token").open) (leave(), emptyPanel());
  });
}

function wireTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  try {
    chosen = localStorage.getItem("theme");
  } catch {
    /* private mode */
  }
  const apply = () => {
    if (chosen) document.documentElement.dataset.theme = chosen;
    set($("theme"), { "aria-pressed": String((chosen ?? (dark.matches ? "dark" : "light")) === "dark") });
  };
  $("theme").addEventListener("click", () => {
    chosen = $("theme").getAttribute("aria-pressed") === "true" ? "light" : "dark";
    try {
      localStorage.setItem("theme", chosen);
    } catch {
      /* private mode */
    }
    apply();
  });
  dark.addEventListener("change", apply);
  apply();
}

wireForm();
wirePassages();
wireTheme();
$("csv").addEventListener("click", () =>
  download("passages.csv", "text/csv;charset=utf-8", `\ufeff${asCsv(csvTable())}`),
); // the mark tells spreadsheets that it is UTF-8
$("json").addEventListener("click", () =>
  download("passages.json", "application/json", JSON.stringify(jsonDocument(), null, 2)),
);
$("copy").addEventListener("click", copy);
count();
learn(false).catch((error) => {
  $("served").textContent = error.message;
});
