// The chat page: sends pictures and questions to the local server and shows answers as they
// come. What people and models write is always text, never markup.
"use strict";

const LETTERS = ["A", "B"];
const VOTES = [["left", "A is better"], ["right", "B is better"], ["tie", "Tie"], ["both bad", "Both bad"]];
const SLOTS = 3;
const KEPT = "vlforge-web";
const HELD = /[\u202a-\u202e\u2066-\u2069]/g;

const $ = (id) => document.getElementById(id);
const state = { room: "", mode: "0", exchanges: [], draft: [], settings: { ...DEFAULTS } };
const live = new Map();
let about = null;
let editing = -1;

function el(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

const json = (what) => ({ method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(what) });
const here = () => `api/rooms/${state.room}`;
const names = () => about.models.map((model) => model.name);
const plain = (text) => text.replace(HELD, "");

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer; is it still running?");
  }
  if (answer.ok) return answer;
  if (answer.status === 401) location.reload();
  throw new Error((await answer.json().catch(() => ({}))).detail || answer.statusText);
}

// ---- what is kept while the tab is open

function remember() {
  const { room, mode, exchanges, draft, settings } = state;
  const sent = draft.filter((picture) => picture.number);
  try {
    sessionStorage.setItem(KEPT, JSON.stringify({ room, mode, exchanges, draft: sent, settings, models: names() }));
  } catch { /* private windows may refuse: then a reload begins anew */ }
}

async function recall() {
  let kept = null;
  try {
    kept = JSON.parse(sessionStorage.getItem(KEPT) || "null");
  } catch { /* as above */ }
  if (!kept || JSON.stringify(kept.models) !== JSON.stringify(names())) return newRoom();
  Object.assign(state.settings, kept.settings);
  state.mode = kept.mode;
  const answer = await fetch(`api/rooms/${kept.room}`);
  if (!answer.ok) return newRoom();
  Object.assign(state, { room: kept.room, exchanges: kept.exchanges, draft: kept.draft });
  for (const exchange of state.exchanges) {
    for (const answer of Object.values(exchange.answers)) if (!answer.ended && !answer.fault) answer.ended = "stopped";
  }
  return null;
}

async function newRoom() {
  state.room = (await (await ask("api/rooms", { method: "POST" })).json()).room;
  state.exchanges = [];
  state.draft = [];
}

// ---- pictures

async function take(files) {
  const faults = [];
  const found = [...files];
  const has = state.draft.length + state.exchanges.reduce((sum, one) => sum + one.pictures.length, 0);
  const room = about.bounds.pictures - has;
  if (found.length > room) faults.push(`A conversation takes ${about.bounds.pictures} pictures: ${found.length - Math.max(0, room)} were left out.`);
  const waiting = found.slice(0, Math.max(0, room)).map((file) => ({ file, name: plain(file.name || "pasted picture"), number: 0 }));
  state.draft.push(...waiting);
  showDraft();
  const send = async () => {
    for (let next = waiting.shift(); next; next = waiting.shift()) await upload(next, faults);
  };
  await Promise.all(Array.from({ length: SLOTS }, send));
  showDraft();
  notice(faults.join("\n"));
  remember();
}

async function upload(picture, faults) {
  try {
    if (picture.file.size > about.bounds.bytes) throw new Error(`${picture.name} has more than ${about.bounds.bytes >> 20} MB; send a smaller one`);
    const path = `${here()}/pictures?name=${encodeURIComponent(picture.name)}`;
    const options = { method: "POST", headers: { "Content-Type": "application/octet-stream" }, body: picture.file };
    Object.assign(picture, await (await ask(path, options)).json());
    delete picture.file;
  } catch (error) {
    faults.push(error.message);
    state.draft = state.draft.filter((one) => one !== picture);
  }
  showDraft();
}

async function takeExample(number) {
  try {
    const picture = await (await ask(`${here()}/examples/${number}`, { method: "POST" })).json();
    state.draft.push(picture);
    $("question").value = about.examples[number].question;
    grow();
    showDraft();
    remember();
    $("question").focus({ preventScroll: true });
  } catch (error) {
    notice(error.message);
  }
}

function removeDraft(picture) {
  state.draft = state.draft.filter((one) => one !== picture);
  fetch(`${here()}/pictures/${picture.number}`, { method: "DELETE" }).catch(() => {});
  showDraft();
  remember();
  $("question").focus();
}

const small = (side) => (side < 160 ? "is-small" : null);
const source = (picture) => `picture/${state.room}/${picture.number}`;

function showDraft() {
  $("draft").hidden = state.draft.length === 0;
  $("draft").replaceChildren(...state.draft.map((picture) => (picture.number
    ? el("li", {}, el("img", { src: source(picture), alt: picture.name, title: picture.name }),
      el("button", { type: "button", "aria-label": `Remove ${picture.name}`, onclick: () => removeDraft(picture) }, "✕"))
    : el("li", { class: "is-sending" }, el("span", { class: "name" }, `Sending ${picture.name}`)))));
  showState();
}

function zoom(picture) {
  $("zoom-name").textContent = `${picture.name} · ${picture.width} × ${picture.height}`;
  $("zoom-picture").src = source(picture);
  $("zoom-picture").alt = picture.name;
  $("zoom").showModal();
}

// ---- asking

const sides = () => (state.mode === "both" ? [0, 1] : [Number(state.mode)]);
const isBusy = () => live.size > 0;

function history(before, model) {
  const told = [];
  let waiting = [];
  for (const exchange of state.exchanges.slice(0, before)) {
    const answer = exchange.answers[model] || Object.values(exchange.answers)[0];
    const pictures = [...waiting, ...exchange.pictures.map((picture) => picture.number)];
    // A question without an answer is no part of what was said; its pictures are.
    waiting = answer && answer.text.trim() ? [] : pictures;
    if (!waiting.length && answer && answer.text.trim()) told.push({ question: exchange.question, pictures, answer: answer.text });
  }
  return { told, waiting };
}

function submit() {
  const question = $("question").value.trim();
  if (!question || isBusy() || state.draft.some((picture) => !picture.number)) return;
  const pictures = state.draft;
  state.draft = [];
  $("question").value = "";
  grow();
  notice("");
  askAnew(question, pictures);
}

function askAnew(question, pictures) {
  const models = sides();
  editing = -1;
  if (models.length === 2 && state.settings.hidden && Math.random() < 0.5) models.reverse();
  state.exchanges.push({ question, pictures, answers: {}, order: models, vote: "", hidden: models.length === 2 && state.settings.hidden });
  const place = state.exchanges.length - 1;
  for (const model of models) draw(place, model);
  showDraft();
  show();
  window.scrollTo(0, document.documentElement.scrollHeight);
}

function regenerate(place, model) {
  const exchange = state.exchanges[place];
  exchange.vote = "";
  draw(place, model);
  show();
}

async function draw(place, model) {
  const { system, fresh, hidden, ...settings } = state.settings;
  if (fresh) settings.seed = Math.floor(Math.random() * 2 ** 31);
  const exchange = state.exchanges[place];
  const answer = { text: "", place: 0, id: "", ended: "", fault: "", seed: settings.seed, warm: settings.temperature > 0, tokens: 0, seconds: 0 };
  exchange.answers[model] = answer;
  const { told, waiting } = history(place, model);
  const pictures = [...waiting, ...exchange.pictures.map((picture) => picture.number)];
  const exchanges = [...told, { question: exchange.question, pictures, answer: "" }];
  const control = new AbortController();
  live.set(answer, { control });
  showState();
  try {
    const reply = await ask(`${here()}/answers`, { ...json({ exchanges, model, system, settings }), signal: control.signal });
    await hear(reply, answer);
    if (!answer.ended && !answer.fault) answer.fault = "The answer was cut off: the server went away.";
  } catch (error) {
    if (error.name === "AbortError") answer.ended = "stopped";
    else answer.fault = answer.text || error.message.includes("does not answer") ? `Cut off. ${error.message}` : error.message;
  }
  live.delete(answer);
  show();
  announce(answer);
  remember();
}

async function hear(reply, answer) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let { done, value } = await reader.read(); !done; { done, value } = await reader.read()) {
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) Object.assign(answer, said(answer, JSON.parse(line)));
    showLive(answer);
  }
}

const said = (answer, event) => ({ ...event, text: answer.text + (event.text || ""), place: event.place || 0 });

function stop() {
  for (const { control } of live.values()) control.abort();
}

function announce(answer) {
  $("announce").textContent = answer.fault || (answer.ended === "stopped" ? "Stopped." : answer.text);
}

async function vote(exchange, choice) {
  const [left, right] = exchange.order.map((model) => exchange.answers[model].id);
  try {
    await ask(`${here()}/votes`, json({ left, right, vote: choice, hidden: exchange.hidden }));
    exchange.vote = choice;
    $("announce").textContent = "Vote saved.";
  } catch (error) {
    notice(error.message);
  }
  const place = state.exchanges.indexOf(exchange);
  show();
  remember();
  const pressed = document.querySelector(`#q-${place + 1} .vote [aria-pressed=true]`);
  if (pressed) pressed.focus();
}

// ---- editing

function edit(place) {
  editing = place;
  show();
  const field = document.querySelector(".edit textarea");
  field.focus();
  field.setSelectionRange(field.value.length, field.value.length);
}

function endEdit(place) {
  editing = -1;
  show();
  const button = document.querySelector(`#q-${place + 1} .user button.act`);
  if (button) button.focus();
}

function askEdited(place, question) {
  if (!question.trim() || isBusy()) return;
  const { pictures } = state.exchanges[place];
  state.exchanges.length = place;
  editing = -1;
  askAnew(question.trim(), pictures);
  $("question").focus();
}

function editor(place, exchange) {
  const field = el("textarea", { rows: Math.min(8, exchange.question.split("\n").length + 1), "aria-label": "Edited question" });
  field.value = exchange.question;
  field.addEventListener("keydown", (event) => {
    if (event.key === "Escape") endEdit(place);
    if (isSend(event)) {
      event.preventDefault();
      askEdited(place, field.value);
    }
  });
  const later = state.exchanges.length - place - 1;
  return el("div", { class: "edit" }, field, el("div", { class: "acts" },
    el("button", { type: "button", class: "main", onclick: () => askEdited(place, field.value) }, "Ask again"),
    el("button", { type: "button", onclick: () => endEdit(place) }, "Cancel")),
  later ? el("span", { class: "muted small" }, `What was said after it goes (${later} more).`) : null);
}

// ---- the conversation

const act = (words, call, more) => el("button", { type: "button", class: "quiet act", onclick: call, ...more }, words);

function show() {
  const isBegun = state.exchanges.length > 0;
  $("welcome").hidden = isBegun;
  const isNear = window.innerHeight + window.scrollY > document.documentElement.scrollHeight - 120;
  const hadFocus = $("exchanges").contains(document.activeElement);
  $("exchanges").replaceChildren(...state.exchanges.map(shownExchange));
  // What had it is made anew: keys go on from the question.
  if (hadFocus && !isTouched()) $("question").focus({ preventScroll: true });
  document.body.classList.toggle("is-compared", state.mode === "both" || state.exchanges.some((one) => one.order.length > 1));
  showState();
  if (isNear && isBegun) window.scrollTo(0, document.documentElement.scrollHeight);
}

function shownExchange(exchange, place) {
  const isLast = place === state.exchanges.length - 1;
  const isTwo = exchange.order.length > 1;
  return el("article", { class: "exchange", id: `q-${place + 1}` },
    el("section", { class: "turn user" }, el("h2", { class: "role" }, "You"), shownPictures(exchange.pictures),
      editing === place ? editor(place, exchange) : [
        el("div", { class: "words", dir: "auto" }, exchange.question),
        el("div", { class: "foot" }, act("Edit", () => edit(place), { disabled: isBusy() })),
      ]),
    el("div", { class: isTwo ? "answers two" : "answers" }, exchange.order.map((model, side) => shownAnswer(exchange, place, model, isTwo ? side : -1, isLast))),
    isTwo && about.votes ? shownVote(exchange) : null);
}

function shownPictures(pictures) {
  if (!pictures.length) return null;
  return el("ul", { class: pictures.length > 1 ? "pictures several" : "pictures" }, pictures.map((picture) => el("li", {},
    el("button", { type: "button", "aria-label": `Enlarge ${picture.name}`, onclick: () => zoom(picture) },
      el("img", {
        src: source(picture), alt: picture.name, width: picture.width, height: picture.height,
        class: small(Math.max(picture.width, picture.height)),
      })))));
}

function whoSaid(exchange, model, side) {
  const name = about.models[model].name;
  if (side < 0) return name;
  return exchange.hidden && !exchange.vote ? LETTERS[side] : `${LETTERS[side]} · ${name}`;
}

function shownAnswer(exchange, place, model, side, isLast) {
  const answer = exchange.answers[model];
  const text = document.createTextNode(plain(answer.text));
  const words = el("div", { class: "words", dir: "auto" }, answer.text ? text : null);
  const waits = el("p", { class: "waits" });
  const isLive = live.has(answer);
  const section = el("section", { class: isLive ? "turn assistant is-live" : "turn assistant", "aria-busy": String(isLive) },
    el("h2", { class: "role", dir: "auto" }, whoSaid(exchange, model, side)), words, waits);
  if (isLive) {
    Object.assign(live.get(answer), { text, words, waits });
    showWaiting(answer);
    return section;
  }
  waits.remove();
  if (answer.fault) section.append(el("p", { class: "fault" }, answer.fault));
  if (!answer.fault && !answer.text) section.append(el("p", { class: "waits" }, answer.ended === "stopped" ? "Stopped before the first word." : "No words."));
  section.append(el("div", { class: "foot" },
    answer.text ? act("Copy", (event) => copy(answer.text, event.target)) : null,
    isLast ? act(answer.fault ? "Try again" : "Regenerate", () => regenerate(place, model), { disabled: isBusy() }) : null,
    el("span", {}, facts(answer))));
  return section;
}

function facts(answer) {
  if (answer.fault || !answer.ended) return "";
  const told = answer.ended === "stopped" ? ["stopped"] : [];
  if (answer.seconds) told.push(`${answer.seconds.toFixed(answer.seconds < 1 ? 2 : answer.seconds < 10 ? 1 : 0)} s`);
  if (answer.tokens) told.push(`${answer.tokens} tokens`);
  if (answer.ended === "length") told.push("cut at the longest answer allowed");
  if (answer.warm) told.push(`seed ${answer.seed}`);
  return told.join(" · ");
}

function showWaiting(answer) {
  const { waits } = live.get(answer);
  waits.hidden = Boolean(answer.text);
  waits.textContent = answer.place ? `Waiting: place ${answer.place} in line …` : "Looking …";
}

function showLive(answer) {
  const shown = live.get(answer);
  if (!shown || !shown.text) return;
  const isNear = window.innerHeight + window.scrollY > document.documentElement.scrollHeight - 120;
  shown.text.data = plain(answer.text);
  if (answer.text && !shown.text.parentNode) shown.words.append(shown.text);
  showWaiting(answer);
  if (isNear) window.scrollTo(0, document.documentElement.scrollHeight);
}

function shownVote(exchange) {
  const both = exchange.order.map((model) => exchange.answers[model]);
  if (both.some((answer) => live.has(answer) || answer.fault || !answer.id)) return null;
  return el("div", { class: "vote", role: "group", "aria-label": "Which answer is better?" }, el("p", {}, "Which answer is better?"),
    VOTES.map(([choice, words]) => el("button", {
      type: "button", "aria-pressed": String(exchange.vote === choice), onclick: () => vote(exchange, choice),
    }, words)), exchange.vote ? el("span", { class: "saved" }, "✓ saved") : null);
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Only pages of https or of this machine may use the clipboard directly.
    const field = el("textarea", { class: "unseen" });
    field.value = text;
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}

function notice(words) {
  $("notice").hidden = !words;
  $("notice").firstElementChild.textContent = plain(words);
}

function showState() {
  const isSending = state.draft.some((picture) => !picture.number);
  $("stop").hidden = !isBusy();
  $("send").hidden = isBusy();
  $("send").disabled = !$("question").value.trim() || isSending;
  $("hint").textContent = isSending ? "Sending pictures …" : "";
  $("restart").disabled = !state.exchanges.length && !state.draft.length;
  $("save").disabled = isBusy() || !state.exchanges.some((one) => Object.values(one.answers).some((answer) => answer.text));
  for (const button of $("modes").children) {
    button.setAttribute("aria-pressed", String(button.value === state.mode));
    button.disabled = isBusy();
  }
}

function grow() {
  const field = $("question");
  field.style.height = "auto";
  field.classList.toggle("is-long", field.value.includes("\n") || field.scrollHeight > 48);
  field.style.height = `${field.scrollHeight}px`;
  showState();
}

// ---- restart and save

async function restart() {
  stop();
  const left = state.room;
  try {
    await newRoom();
  } catch (error) {
    notice(error.message);
    return;
  }
  fetch(`api/rooms/${left}/leave?at_once`, { method: "POST" }).catch(() => {});
  editing = -1;
  notice("");
  showDraft();
  show();
  remember();
  window.scrollTo(0, 0);
  $("question").focus();
}

async function save() {
  const models = [...new Set(state.exchanges.flatMap((exchange) => exchange.order))].sort();
  const talks = models.map((model) => ({ model, system: state.settings.system, exchanges: history(state.exchanges.length, model).told }));
  try {
    const data = await (await ask(`${here()}/save`, json(talks))).blob();
    const link = el("a", { href: URL.createObjectURL(data), download: "conversation.zip" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  } catch (error) {
    notice(error.message);
  }
}

// ---- start

const isTouched = () => matchMedia("(pointer: coarse)").matches;
const isSend = (event) => event.key === "Enter" && !event.shiftKey && !event.isComposing && !isTouched();

function hasFiles(event) {
  return event.dataTransfer && [...event.dataTransfer.types].includes("Files");
}

function showAbout() {
  const all = names();
  const sees = about.models.some((model) => model.sees);
  $("title").textContent = `Ask ${all.length > 1 ? "both models" : all[0]} ${sees ? "about a picture" : "something"}`;
  document.title = `${all.join(" and ")} · VLForge chat`;
  $("model").textContent = all.length > 1 ? "" : all[0];
  $("modes").hidden = all.length < 2;
  const modes = [["both", "Side by side"], ...all.map((name, place) => [String(place), name])];
  $("modes").replaceChildren(...modes.map(([value, words]) => el("button", { type: "button", value, title: words, onclick: () => choose(value) }, words)));
  state.mode = all.length > 1 ? "both" : "0";
  $("drop").hidden = $("add").hidden = !sees;
  if (!sees) $("question").placeholder = "Ask …";
  const { bytes, pixels, pictures } = about.bounds;
  $("drop-bounds").textContent = `JPEG, PNG, WebP, GIF or BMP; up to ${pictures}, each at most ${bytes >> 20} MB and ${Math.floor(pixels / 1e6)} megapixels`;
  $("examples").hidden = !about.examples.length;
  $("examples").querySelector("ul").replaceChildren(...about.examples.map((example, number) => el("li", {},
    el("button", { type: "button", onclick: () => takeExample(number) },
      el("img", { src: `example/${number}`, alt: example.question ? "" : example.name, class: small(example.side) }), el("span", {}, example.question)))));
}

function choose(mode) {
  state.mode = mode;
  document.body.classList.toggle("is-compared", mode === "both");
  show();
  remember();
}

function listen() {
  $("composer").addEventListener("submit", (event) => { event.preventDefault(); submit(); });
  $("question").addEventListener("input", grow);
  $("question").addEventListener("keydown", (event) => { if (isSend(event)) { event.preventDefault(); submit(); } });
  $("stop").addEventListener("click", () => { stop(); $("question").focus(); });
  $("add").addEventListener("click", () => $("files").click());
  $("files").addEventListener("change", () => { take($("files").files).then(() => { $("files").value = ""; }); $("question").focus(); });
  $("restart").addEventListener("click", restart);
  $("save").addEventListener("click", save);
  $("notice").lastElementChild.addEventListener("click", () => notice(""));
  $("settings-open").addEventListener("click", () => $("settings").showModal());
  for (const id of ["settings", "zoom"]) {
    $(`${id}-close`).addEventListener("click", () => $(id).close());
    $(id).addEventListener("click", (event) => { if (event.target === $(id)) $(id).close(); });
  }
  listenToSettings();
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && isBusy() && !document.querySelector("dialog[open]")) stop(); });
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData || { files: [] }).files];
    if (!files.length || !about.models.some((model) => model.sees)) return;
    event.preventDefault();
    take(files);
  });
  for (const name of ["dragenter", "dragover"]) {
    window.addEventListener(name, (event) => { if (hasFiles(event)) { event.preventDefault(); document.body.classList.add("is-over"); } });
  }
  window.addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("is-over"); });
  window.addEventListener("drop", (event) => {
    document.body.classList.remove("is-over");
    if (!hasFiles(event)) return;
    event.preventDefault();
    take(event.dataTransfer.files);
    $("question").focus();
  });
  // Loaded again within a minute it finds its pictures; otherwise they are removed.
  window.addEventListener("pagehide", (event) => { if (!event.persisted && state.room) navigator.sendBeacon(`${here()}/leave`); });
}

async function start() {
  about = await (await ask("api/about")).json();
  showAbout();
  await recall();
  buildSettings();
  showSettings();
  listen();
  showDraft();
  show();
  document.body.removeAttribute("aria-busy");
  if (!isTouched()) $("question").focus({ preventScroll: true });
}

start().catch((error) => { $("title").textContent = error.message; });
