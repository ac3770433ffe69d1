"use strict";
// All texts are put in as text, never as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const NAMES = { wrong: "wrong", part: "in part", unread: "not read", right: "right" };
const find = (id) => document.getElementById(id);
const states = new Set();
let shown = [], place = 0;

function make(tag, name, text) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
}

function words(item) {
  const found = [item.id, item.question, item.said, item.parsed || "", ...item.answers];
  for (const [, text] of item.options) found.push(text);
  for (const [, text] of item.fields) found.push(text);
  return found.join("\n").toLowerCase();
}

function filter(keep) {
  const wanted = find("search").value.toLowerCase();
  const [field, value] = find("group").value ? JSON.parse(find("group").value) : [];
  const current = keep || (shown[place] && shown[place].id);
  shown = data.items.filter((item) =>
    (!states.size || states.has(item.state)) &&
    (!field || item.groups.some(([name, text]) => name === field && text === value)) &&
    (!wanted || item.words.includes(wanted)));
  place = Math.max(0, shown.findIndex((item) => item.id === current));
  list();
  show();
}

function list() {
  const rows = shown.map((item, number) => {
    const row = make("button");
    row.type = "button";
    const dot = make("span", "dot " + item.state);
    dot.title = NAMES[item.state];
    const text = make("span");
    text.append(make("span", "id", item.id), make("span", "short", item.question));
    row.append(dot, text);
    row.onclick = () => go(number);
    return row;
  });
  find("list").replaceChildren(...rows);
}

function go(number) {
  if (number < 0 || number >= shown.length) return;
  place = number;
  show();
  const bar = document.querySelector(".bar").getBoundingClientRect();
  const top = find("item").getBoundingClientRect().top;
  if (top < 0) window.scrollBy(0, top - bar.height);
}

function block(title, text, name) {
  const made = make("section");
  const box = make("div", "box " + (name || ""));
  box.append(make("div", "text", text));
  made.append(make("h3", "", title), box);
  return made;
}

function pictures(item) {
  const made = make("div", "pictures" + (item.pictures.length > 1 ? " several" : ""));
  item.pictures.forEach((url, number) => {
    const image = make("img"), button = make("button");
    image.src = url;
    image.alt = "picture " + (number + 1) + " of item " + item.id;
    button.type = "button";
    button.onclick = () => { find("large-image").src = url; find("large").showModal(); };
    button.append(image);
    made.append(button);
  });
  return made;
}

function choices(item) {
  const made = make("section");
  made.append(make("h3", "", "Options"));
  const all = make("ul", "options text");
  for (const [letter, text] of item.options) {
    const is = (each) => each === letter || each === text;
    const line = make("li", item.answers.some(is) ? "right" : "", letter + ". " + text);
    if (item.answers.some(is)) line.append(" \u2713");
    if (is(item.parsed) && !item.answers.some(is)) { line.className = "wrong"; line.append(" \u2717"); }
    all.append(line);
  }
  made.append(all);
  return made;
}

function table(title, pairs) {
  const made = make("section"), rows = make("dl");
  for (const [name, text] of pairs) rows.append(make("dt", "", name), make("dd", "", text));
  made.append(make("h3", "", title), rows);
  return made;
}

function show() {
  const item = shown[place], parts = [];
  find("count").textContent = item ? (place + 1) + " of " + shown.length : "none";
  find("back").disabled = !item || place === 0;
  find("next").disabled = !item || place === shown.length - 1;
  [...find("list").children].forEach((row, number) => {
    row.setAttribute("aria-current", String(number === place));
    if (number === place) {
      const box = find("list"), top = row.offsetTop - box.offsetTop;
      if (top < box.scrollTop || top + row.offsetHeight > box.scrollTop + box.clientHeight)
        box.scrollTop = top - box.clientHeight / 3;
    }
  });
  if (!item) {
    find("item").replaceChildren(make("p", "empty", "No answer is like that."));
    return;
  }
  const head = make("h2", "", item.id + "  ");
  const worth = item.state === "part" ? "  " + item.value : "";
  head.append(make("span", item.state, NAMES[item.state] + worth));
  parts.push(head);
  if (item.pictures.length) parts.push(pictures(item));
  if (item.note) parts.push(make("p", "facts", item.note));
  parts.push(block("Question", item.question));
  if (item.options.length) parts.push(choices(item));
  parts.push(block("True answer", item.answers.join("\n") || "not given"));
  parts.push(block("Answer of the model", item.said, "said " + item.state));
  if (item.parsed !== null) parts.push(block("Read as", item.parsed));
  if (item.detail.length) parts.push(table("Scoring", item.detail));
  if (item.fields.length) parts.push(table("Fields", item.fields));
  find("item").replaceChildren(...parts);
  history.replaceState(null, "", "#" + encodeURIComponent(item.id));
}

function begin() {
  find("title").textContent = document.title = data.title;
  find("facts").textContent = data.facts;
  const body = find("scores");
  for (const row of data.scores) {
    const line = make("tr");
    row.forEach((cell) => line.append(make("td", "", cell)));
    body.append(line);
  }
  find("table").hidden = !data.scores.length;
  find("table").open = window.innerWidth > 760 && data.scores.length <= 8;
  for (const state of Object.keys(NAMES)) {
    const count = data.items.filter((item) => item.state === state).length;
    if (!count) continue;
    const chip = make("button", "", count + " " + NAMES[state]);
    chip.type = "button";
    chip.setAttribute("aria-pressed", "false");
    chip.onclick = () => {
      states.has(state) ? states.delete(state) : states.add(state);
      chip.setAttribute("aria-pressed", String(states.has(state)));
      filter();
    };
    find("states").append(chip);
  }
  for (const [name, values] of data.groups) {
    const group = make("optgroup");
    group.label = name;
    for (const value of values) {
      const option = make("option", "", value);
      option.value = JSON.stringify([name, value]);
      group.append(option);
    }
    find("group").append(group);
  }
  find("group").hidden = !data.groups.length;
  data.items.forEach((item) => { item.words = words(item); });
  find("search").oninput = () => filter();
  find("group").onchange = () => filter();
  find("back").onclick = () => go(place - 1);
  find("next").onclick = () => go(place + 1);
  find("large").onclick = () => find("large").close();
  document.onkeydown = (event) => {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.ctrlKey || event.metaKey || event.altKey || find("large").open) return;
    if (typing) { if (event.key === "Escape") event.target.blur(); return; }
    if (event.key === "ArrowRight" || event.key === "j") go(place + 1);
    else if (event.key === "ArrowLeft" || event.key === "k") go(place - 1);
    else if (event.key === "/") find("search").focus();
    else return;
    event.preventDefault();
  };
  let wanted = "";
  try { wanted = decodeURIComponent(location.hash.slice(1)); } catch { wanted = ""; }
  filter(wanted);
}
begin();
