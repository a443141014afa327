// The dataset viewer: asks the local server for rows and shows them. What comes from data is
// always text, never markup.
"use strict";

const PAGE_ROWS = 20;
const SIGNS = { kept: "✓", dropped: "✕", changed: "~", data: "", other: "⇄" };
const WORDS = { kept: "Kept", dropped: "Dropped", changed: "Changed", data: "Before", other: "After" };
const FILTERS = ["text", "field", "stat", "low", "high", "op", "reason", "state"];

const $ = (id) => document.getElementById(id);
const count = (number) => number.toLocaleString("en");
const state = { set: "", at: 0, row: null, text: "", field: "all", stat: "", low: "", high: "", op: "", reason: "", state: "" };
const seen = { about: null, survey: {}, scan: 0, scanned: null, rows: [], total: 0, turn: 0, here: 0 };
const zoomed = { pictures: [], at: 0, scale: 0 };

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

async function ask(path, options) {
  const answer = await fetch(path, options);
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).detail || answer.statusText);
  return answer.json();
}

const setNow = () => seen.about.sets.find((set) => set.name === state.set);
const isFiltered = () => Boolean(state.text || state.stat || state.reason || state.op || state.state);
const wordOf = (set) => (seen.about.joined && set.kind === "kept" ? "Before" : WORDS[set.name] || WORDS.data);

// ---- the address: every view can be linked to

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const name of FILTERS) state[name] = given.get(name) || (name === "field" ? "all" : "");
  state.set = given.get("set") || "";
  state.at = Math.max(0, parseInt(given.get("at"), 10) || 0);
  state.row = given.has("row") ? Math.max(0, parseInt(given.get("row"), 10) || 0) : null;
}

function writeAddress() {
  const told = new URLSearchParams({ set: state.set });
  if (state.at) told.set("at", state.at);
  for (const name of FILTERS) if (state[name] && state[name] !== "all") told.set(name, state[name]);
  history.replaceState(null, "", `#${told}`);
}

// ---- what there is

async function refreshAbout() {
  seen.about = await ask("api/about");
  const { sets, joined, opens } = seen.about;
  if (!sets.some((set) => set.name === state.set)) state.set = opens;
  showTitle(sets, joined);
  showSets(sets);
  const waits = sets.some((set) => !set.is_complete) || (joined && !joined.is_ready);
  if (waits) setTimeout(() => refreshAbout().then(afterAbout).catch(showFault), 600);
  return waits;
}

async function afterAbout() {
  const isOut = seen.total <= state.at + PAGE_ROWS || seen.rows.some((row) => row.other === "waiting");
  if (!isFiltered() && isOut) await showRows();
  else showStatus();
  const set = setNow();
  if (set.is_complete && !(seen.survey[set.name] || {}).is_complete) await loadSurvey();
}

function showTitle(sets, joined) {
  const kept = sets.find((set) => set.kind === "kept");
  const dropped = sets.find((set) => set.kind === "dropped");
  const name = sets[0].title;
  const so_far = sets.every((set) => set.is_complete) ? "" : " so far";
  let title = `${count(sets[0].rows)} ${sets[0].rows === 1 ? "row" : "rows"} in ${name}${so_far}`;
  if (kept && dropped) title = `${count(kept.rows)} rows kept, ${count(dropped.rows)} dropped${so_far}`;
  if (joined) title = `${name} and ${sets[sets.length - 1].title}, side by side`;
  $("title").textContent = title;
  document.title = `${name} · VLForge viewer`;
}

function showSets(sets) {
  const set = setNow();
  $("path").textContent = `${set.path} · ${set.format}`;
  $("sets").replaceChildren(...(sets.length < 2 ? [] : sets.map(tab)));
}

function tab(set) {
  const sign = SIGNS[set.name];
  return el("button", {
    type: "button", role: "tab", "aria-selected": String(set.name === state.set), class: `is-${set.kind}`,
    onclick: () => choose({ set: set.name }),
  }, sign ? el("span", { class: "sign", "aria-hidden": "true" }, sign) : null, `${wordOf(set)} ${count(set.rows)}`);
}

// ---- filters

async function loadSurvey() {
  const name = state.set;
  seen.survey[name] = await ask(`api/sets/${name}/survey`);
  if (name === state.set) showFilters();
}

function options(select, list, value) {
  select.replaceChildren(...list.map(([key, words]) => el("option", { value: key }, words)));
  if (value && !list.some(([key]) => key === value)) select.append(el("option", { value }, value));
  select.value = value;
}

function showFilters() {
  const survey = seen.survey[state.set] || { stats: [], reasons: [] };
  const joined = setNow() && setNow().is_joined;
  $("text").value = state.text;
  $("field").value = state.field;
  options($("stat"), [["", "any"], ...survey.stats.map((stat) => [stat.name, stat.name])], state.stat);
  const isAll = survey.looked_at === survey.rows;
  const reasons = survey.reasons.map(({ op, reason, rows }) => [
    JSON.stringify([op, reason]), `${reason} · ${op}${isAll ? ` · ${count(rows)}` : ""}`]);
  const chosen = state.reason || state.op ? JSON.stringify([state.op, state.reason]) : "";
  $("reason-label").hidden = !reasons.length && !chosen;
  options($("reason"), [["", "any"], ...reasons], chosen);
  $("state-label").hidden = !joined;
  const missing = state.set === "other" ? "only here (new)" : "only here (gone)";
  options($("state"), [["", "all rows"], ["changed", "text differs"], ["same", "same text"], ["missing", missing]], state.state);
  $("range").hidden = !state.stat;
  $("clear").hidden = !isFiltered();
  if (state.stat) showShape(survey.stats.find((stat) => stat.name === state.stat));
}

function figure(value) {
  return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(4)));
}

function showShape(stat) {
  $("low").value = state.low;
  $("high").value = state.high;
  $("low").placeholder = stat ? figure(stat.low) : "";
  $("high").placeholder = stat ? figure(stat.high) : "";
  if (!stat) return $("shape").replaceChildren();
  const most = Math.max(...stat.bins);
  const width = (stat.high - stat.low) / stat.bins.length;
  const low = state.low === "" ? -Infinity : Number(state.low);
  const high = state.high === "" ? Infinity : Number(state.high);
  $("shape").replaceChildren(...stat.bins.map((rows, place) => {
    const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    const tall = rows ? Math.max(1.5, 32 * rows / most) : 0;
    const from = stat.low + place * width;
    const of = { x: place * 5, y: 32 - tall, width: 4, height: tall };
    for (const [name, value] of Object.entries(of)) bar.setAttribute(name, value);
    if (from + width >= low && from <= high) bar.setAttribute("class", "in");
    return bar;
  }));
}

function choose(changes) {
  if (changes.set && changes.set !== state.set) Object.assign(state, { stat: "", low: "", high: "", op: "", reason: "", state: "" });
  Object.assign(state, { at: 0, row: null }, changes);
  seen.here = 0;
  if (seen.about) showSets(seen.about.sets);
  showFilters();
  if (!seen.survey[state.set]) loadSurvey().catch(showFault);
  look().catch(showFault);
}

function number(text) {
  const value = text.trim() === "" ? null : Number(text);
  return Number.isFinite(value) ? value : null;
}

// ---- searching: the server looks in the background, the page watches

async function look() {
  const turn = ++seen.turn;
  stop(seen.scan);
  Object.assign(seen, { scan: 0, scanned: null });
  writeAddress();
  if (!isFiltered()) return showRows();
  const wanted = {
    text: state.text, field: state.field, stat: state.stat, low: number(state.low), high: number(state.high),
    op: state.op, reason: state.reason, state: state.state,
  };
  const begun = await ask(`api/sets/${state.set}/scans`, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(wanted),
  });
  if (turn !== seen.turn) return stop(begun.scan);
  seen.scan = begun.scan;
  await watch(turn, 0.25);
}

async function watch(turn, wait_s) {
  let shown = -1;
  for (;;) {
    const scanned = await ask(`api/scans/${seen.scan}?wait_s=${wait_s}`);
    if (turn !== seen.turn) return;
    seen.scanned = scanned;
    const end = Math.min(scanned.found, state.at + PAGE_ROWS);
    if (end !== shown || scanned.is_done) await showRows();
    else showStatus();
    if (turn !== seen.turn || scanned.is_done) return;
    shown = end;
    wait_s = 0.6;
  }
}

function stop(scan) {
  if (scan) ask(`api/scans/${scan}`, { method: "DELETE" }).catch(() => {});
}

// ---- rows

async function showRows() {
  const turn = seen.turn;
  const scan = seen.scan ? `&scan=${seen.scan}` : "";
  $("rows").classList.add("waits");
  const found = await ask(`api/sets/${state.set}/rows?start=${state.at}&count=${PAGE_ROWS}${scan}`);
  if (turn !== seen.turn) return;
  Object.assign(seen, { rows: found.rows, total: found.total });
  $("rows").classList.remove("waits");
  $("rows").replaceChildren(...(found.rows.length ? found.rows.map(article) : [nothing(found)]));
  showStatus();
  if (state.row !== null) seen.here = Math.max(0, found.rows.findIndex((row) => row.number === state.row));
  if (state.row !== null && found.rows.length) point(seen.here, true);
  else point(Math.min(seen.here, found.rows.length - 1), false);
  state.row = null;
}

function nothing(found) {
  const words = !found.is_complete ? "Looking …" : isFiltered() ? "No row is like that." : "No rows here.";
  return el("p", { class: "empty" }, words);
}

function article(row, place) {
  const other = row.other;
  const isPair = other !== undefined && other !== "waiting";
  const made = el("article", {
    class: `row${row.pictures.length || isPair ? "" : " no-pictures"}`, tabindex: "-1", id: `row-${row.number}`,
    "aria-label": `Row ${row.number + 1}`, onclick: () => point(place, false),
  }, head(row));
  if (isPair) made.append(pair(row, other));
  else {
    if (row.pictures.length) made.append(pictures(row, state.set));
    made.append(el("div", {}, body(row, state.set), facts(row)));
  }
  return made;
}

function head(row) {
  const made = el("div", { class: "row-head" },
    el("a", { href: `#set=${state.set}&at=${row.number}&row=${row.number}`, onclick: linked }, `Row ${count(row.number + 1)}`),
    row.id === null ? null : el("span", { class: "mono", dir: "auto" }, ...lit(row.id)));
  const fate = row.fate;
  if (row.fault && !fate) made.append(el("span", { class: "badge on-dropped" }, `✕ ${row.fault.reason}`));
  if (fate && fate.reason === "changed") made.append(el("span", { class: "badge on-changed" }, `~ ${fate.op}`));
  else if (fate) {
    made.append(el("span", { class: "badge on-dropped" }, `✕ ${fate.reason}`));
    const value = fate.stat && fate.value !== "" ? `${fate.stat} ${fate.value}` : fate.value;
    const wants = fate.bound ? `, wanted ${fate.bound}` : "";
    made.append(el("span", { class: "why" }, `${fate.op}${value ? `: ${value}${wants}` : ""}`));
  }
  if (row.mark_count !== undefined && row.mark_count && row.mark_count !== row.picture_count)
    made.append(el("span", { class: "badge on-changed" }, `${row.mark_count} image marks, ${row.picture_count} pictures`));
  if (row.other && row.other.is_same) made.append(el("span", { class: "muted" }, "same in both"));
  if (row.other && row.other !== "waiting" && !row.other.is_same) made.append(el("span", { class: "badge on-changed" }, "~ differs"));
  if (row.other === null) made.append(el("span", { class: `badge ${state.set === "other" ? "on-kept" : "on-dropped"}` },
    state.set === "other" ? "＋ only after" : "✕ only before"));
  return made;
}

function linked(event) {
  event.preventDefault();
  history.replaceState(null, "", event.currentTarget.getAttribute("href"));
}

function pair(row, other) {
  const mine = side(row, state.set);
  const theirs = other === null ? el("div", { class: "side absent no-pictures" }, "not in this dataset")
    : side(other, state.set === "other" ? joinedName() : "other");
  const sides = state.set === "other" ? [theirs, mine] : [mine, theirs];
  sides.forEach((made, place) => made.prepend(el("h3", {}, place ? "After" : "Before")));
  return el("div", { class: "sides" }, ...sides);
}

const joinedName = () => seen.about.sets.find((set) => set.is_joined && set.name !== "other").name;

function side(row, set) {
  return el("div", { class: `side${row.pictures.length ? "" : " no-pictures"}` },
    row.pictures.length ? pictures(row, set) : null, el("div", {}, body(row, set), facts(row)));
}

const pictureUrl = (set, row, place, size) => `picture/${set}/${row.number}/${place}?side=${size}&v=${seen.about.key}`;

function pictures(row, set) {
  const made = el("div", { class: `pictures${row.pictures.length > 1 ? " several" : ""}` });
  row.pictures.forEach((name, place) => {
    const image = el("img", { src: pictureUrl(set, row, place, "thumb"), alt: name || `Picture ${place + 1}`, loading: "lazy", decoding: "async" });
    const button = el("button", { type: "button", class: "picture", "aria-label": `Zoom ${name || `picture ${place + 1}`}`, onclick: () => zoom(row, set, place) },
      image, row.pictures.length > 1 ? el("span", { class: "place" }, String(place + 1)) : null);
    image.addEventListener("error", () => explain(button, image.src, name));
    made.append(button);
  });
  return made;
}

async function explain(button, url, name) {
  const reason = await fetch(url).then((answer) => answer.json()).then((told) => told.detail).catch(() => "cannot be shown");
  button.replaceWith(el("div", { class: "picture none" }, el("b", {}, reason), el("br"), name));
}

function body(row, set) {
  const said = el("div", { class: "said" });
  if (row.fault) said.append(el("pre", { dir: "auto" }, ...lit(row.fault.value)));
  for (const turn of row.said) {
    const words = el("div", { class: "words", dir: "auto" }, ...turn.parts.map((part) => piece(part, row, set)));
    if (turn.parts.reduce((sum, part) => sum + (part.text || "").length, 0) > 1600) {
      words.classList.add("is-long");
      words.tabIndex = 0;
    }
    const known = ["user", "assistant", "system", "before", "after"].includes(turn.role);
    said.append(known ? el("div", { class: `turn ${turn.role}` }, el("span", { class: "role" }, turn.role), words)
      : el("div", { class: "turn plain" }, words));
  }
  if (!row.said.length && !row.fault) said.append(el("span", { class: "muted" }, "no text"));
  return said;
}

function piece(part, row, set) {
  if (part.picture === undefined) {
    if (part.mark) return el(part.mark === "gone" ? "del" : "ins", {}, part.text);
    return el("span", {}, ...lit(part.text));
  }
  const place = part.picture;
  const words = `image ${place + 1}`;
  if (place >= row.pictures.length) return el("span", { class: "mark lone" }, `${words}: no picture`);
  const image = el("img", { src: pictureUrl(set, row, place, "thumb"), alt: "", loading: "lazy" });
  const button = el("button", { type: "button", class: "mark", onclick: () => zoom(row, set, place) }, image, words);
  image.addEventListener("error", () => button.replaceWith(el("span", { class: "mark lone" }, `${words}: not shown`)));
  return button;
}

function lit(text) {
  const sought = state.text.toLowerCase();
  const low = text.toLowerCase();
  if (!sought || low.length !== text.length) return [text];
  const found = [];
  let from = 0;
  for (let at = low.indexOf(sought); at >= 0 && found.length < 200; at = low.indexOf(sought, from)) {
    found.push(text.slice(from, at), el("mark", {}, text.slice(at, at + sought.length)));
    from = at + sought.length;
  }
  return [...found, text.slice(from)];
}

function facts(row) {
  const fault = row.fate ? row.fate.stat : "";
  const made = el("div", {});
  if (row.stats.length) made.append(el("ul", { class: "stats" }, ...row.stats.map(([name, value]) =>
    el("li", { class: name === fault ? "at-fault" : null }, `${name} `, el("b", {}, value)))));
  if (row.extra.length) made.append(el("details", {}, el("summary", {}, `${row.extra.length} more ${row.extra.length > 1 ? "fields" : "field"}`),
    el("dl", {}, ...row.extra.flatMap(([name, value]) => [el("dt", { class: "mono" }, name), el("dd", { dir: "auto" }, value)]))));
  return made;
}

// ---- where we are

function showStatus() {
  const set = setNow();
  const scanned = seen.scanned;
  const last = Math.min(seen.total, state.at + PAGE_ROWS);
  const places = seen.total ? `${count(state.at + 1)}–${count(last)} of ` : "";
  const words = scanned ? [places, el("b", {}, `${count(scanned.found)} found`), ` in ${count(scanned.looked_at)} rows`]
    : [places, el("b", {}, `${count(seen.total)} rows`)];
  if (scanned && scanned.is_cancelled && scanned.looked_at < scanned.total) words.push(", stopped");
  const isLooking = Boolean(scanned && !scanned.is_done);
  const isReading = !set.is_complete;
  if (isReading && !isLooking) words.push(set.share === null ? ", reading …" : ", indexing …");
  $("status").replaceChildren(...words);
  $("cancel").hidden = !isLooking;
  $("progress").hidden = !isLooking && !isReading;
  const share = isLooking ? scanned.looked_at / Math.max(1, scanned.total) : set.share;
  if (share === null) $("progress").removeAttribute("value");
  else $("progress").value = share;
  for (const id of ["back", "back-below"]) $(id).disabled = state.at === 0;
  for (const id of ["next", "next-below"]) $(id).disabled = last >= seen.total;
  $("goto").placeholder = count(state.at + 1);
  showNotices(set);
}

function showNotices(set) {
  const joined = seen.about.joined;
  const notes = [];
  if (set.fault) notes.push(`The file could not be read to its end: ${set.fault}`);
  if (seen.scanned && seen.scanned.fault) notes.push(`The search ended early: ${seen.scanned.fault}`);
  if (joined && joined.fault) notes.push(joined.fault);
  if (joined && !joined.is_ready) notes.push("Joining the two datasets by their ids …");
  else if (joined && !joined.is_by_id) notes.push("No row has an id: rows are joined by their number.");
  $("notice").hidden = !notes.length;
  $("notice").replaceChildren(...notes.map((note) => el("span", {}, note)));
}

function showFault(error) {
  $("notice").hidden = false;
  $("rows").classList.remove("waits");
  const gone = error instanceof TypeError ? "The viewer's server has ended: start `vlforge view` again." : error.message;
  $("notice").replaceChildren(el("span", {}, gone));
}

function point(place, isMoved) {
  const rows = [...$("rows").querySelectorAll(".row")];
  if (!rows.length) return;
  seen.here = Math.max(0, Math.min(place, rows.length - 1));
  rows.forEach((row, at) => row.classList.toggle("is-here", at === seen.here));
  if (!isMoved) return;
  rows[seen.here].focus({ preventScroll: true });
  rows[seen.here].scrollIntoView({ block: "start" });
}

async function turnTo(at, here) {
  const last = Math.max(0, seen.total - 1);
  state.at = Math.max(0, Math.min(at, last));
  writeAddress();
  await showRows();
  scrollTo(0, 0);
  point(here, here > 0);
}

async function step(by) {
  const place = seen.here + by;
  if (place >= 0 && place < seen.rows.length) return point(place, true);
  if (by > 0 && state.at + PAGE_ROWS < seen.total) return turnTo(state.at + PAGE_ROWS, 0);
  if (by < 0 && state.at > 0) return turnTo(state.at - PAGE_ROWS, PAGE_ROWS - 1);
}

const leaf = (by) => {
  if (by > 0 ? state.at + PAGE_ROWS < seen.total : state.at > 0) turnTo(state.at + by * PAGE_ROWS, 0).catch(showFault);
};

// ---- pictures, large

function zoom(row, set, place) {
  zoomed.pictures = row.pictures.map((name, at) => [name, pictureUrl(set, row, at, "whole")]);
  zoomed.at = place;
  showZoomed();
  if (!$("zoom").open) $("zoom").showModal();
  $("zoom-stage").focus();
}

function showZoomed() {
  const [name, url] = zoomed.pictures[zoomed.at];
  const many = zoomed.pictures.length > 1;
  $("zoom-name").textContent = `${name}${many ? `  ${zoomed.at + 1} of ${zoomed.pictures.length}` : ""}`;
  $("zoom-picture").src = url;
  $("zoom-picture").alt = name;
  for (const id of ["zoom-back", "zoom-next"]) $(id).hidden = !many;
  fit(0);
}

// `scale` is pixels of the screen per pixel of the picture; 0 fits the picture to the screen.
function fit(scale) {
  const picture = $("zoom-picture");
  zoomed.scale = scale;
  $("zoom-stage").classList.toggle("is-full", scale > 0);
  picture.style.width = scale ? `${Math.round(picture.naturalWidth * scale)}px` : "";
  $("zoom-size").textContent = scale ? `${Math.round(scale * 100)} %` : "Fit";
}

function scaleNow() {
  const picture = $("zoom-picture");
  if (zoomed.scale || !picture.naturalWidth) return zoomed.scale || 1;
  return Math.min(picture.clientWidth / picture.naturalWidth, picture.clientHeight / picture.naturalHeight);
}

// What is at `x`, `y` of the stage (its middle, if not told) stays there.
function rescale(by, x, y) {
  const stage = $("zoom-stage");
  const picture = $("zoom-picture");
  const place = [x === undefined ? stage.clientWidth / 2 : x, y === undefined ? stage.clientHeight / 2 : y];
  const before = scaleNow();
  const middle = zoomed.scale ? null : 0.5;
  const share = (at, size, offset) => (middle === null ? (at - offset) / size : middle);
  const across = share(stage.scrollLeft + place[0], picture.clientWidth, picture.offsetLeft);
  const down = share(stage.scrollTop + place[1], picture.clientHeight, picture.offsetTop);
  fit(Math.min(16, Math.max(0.05, before * by)));
  stage.scrollLeft = across * picture.clientWidth + picture.offsetLeft - place[0];
  stage.scrollTop = down * picture.clientHeight + picture.offsetTop - place[1];
}

function drag(event) {
  if (!event.buttons || !zoomed.scale) return;
  $("zoom-stage").scrollBy(-event.movementX, -event.movementY);
}

function stepZoomed(by) {
  zoomed.at = (zoomed.at + by + zoomed.pictures.length) % zoomed.pictures.length;
  showZoomed();
}

const toggleSize = () => fit(zoomed.scale ? 0 : 1);

// ---- keys and buttons

function zoomHere() {
  const row = seen.rows[seen.here];
  if (row && row.pictures.length && $("rows").querySelector(".row.is-here button.picture")) zoom(row, state.set, 0);
}

function openFields() {
  const row = $("rows").querySelectorAll(".row")[seen.here];
  for (const fields of row ? row.querySelectorAll("details") : []) fields.open = !fields.open;
}

const KEYS = {
  j: () => step(1), k: () => step(-1), n: () => leaf(1), p: () => leaf(-1),
  z: zoomHere, o: openFields, "?": () => $("keys").showModal(),
  "/": (event) => { event.preventDefault(); $("text").focus(); $("text").select(); },
  Escape: () => { if (isFiltered()) clearFilters(); },
};

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $("keys").open) return;
  if ($("zoom").open) {
    const keys = {
      ArrowLeft: () => stepZoomed(-1), ArrowRight: () => stepZoomed(1), z: toggleSize,
      "+": () => rescale(1.5), "=": () => rescale(1.5), "-": () => rescale(1 / 1.5), "0": () => fit(0),
    };
    // The arrows move a picture that is larger than the screen.
    if (keys[event.key] && !(zoomed.scale && event.key.startsWith("Arrow"))) keys[event.key]();
    return;
  }
  if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const set = seen.about && seen.about.sets[Number(event.key) - 1];
  if (/^[1-9]$/.test(event.key) && set) return choose({ set: set.name });
  if (KEYS[event.key]) Promise.resolve(KEYS[event.key](event)).catch(showFault);
}

function clearFilters() {
  choose({ text: "", stat: "", low: "", high: "", op: "", reason: "", state: "" });
}

function wire() {
  let typing = 0;
  $("text").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => choose({ text: $("text").value }), 250);
  });
  $("field").addEventListener("change", () => choose({ field: $("field").value }));
  $("stat").addEventListener("change", () => choose({ stat: $("stat").value, low: "", high: "" }));
  for (const id of ["low", "high"]) $(id).addEventListener("change", () => choose({ [id]: $(id).value }));
  $("reason").addEventListener("change", () => {
    const [op, reason] = $("reason").value ? JSON.parse($("reason").value) : ["", ""];
    choose({ op, reason });
  });
  $("state").addEventListener("change", () => choose({ state: $("state").value }));
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("goto").addEventListener("change", () => {
    const wanted = parseInt($("goto").value.replace(/\D/g, ""), 10);
    $("goto").value = "";
    if (wanted) turnTo(wanted - 1, 0).catch(showFault);
  });
  const clicks = {
    clear: clearFilters, cancel: () => stop(seen.scan), back: () => leaf(-1), next: () => leaf(1),
    "back-below": () => leaf(-1), "next-below": () => leaf(1), help: () => $("keys").showModal(),
    "keys-close": () => $("keys").close(), "zoom-close": () => $("zoom").close(), "zoom-size": toggleSize,
    "zoom-back": () => stepZoomed(-1), "zoom-next": () => stepZoomed(1),
    "zoom-in": () => rescale(1.5), "zoom-out": () => rescale(1 / 1.5),
  };
  for (const [id, call] of Object.entries(clicks)) $(id).addEventListener("click", call);
  $("zoom-picture").addEventListener("dblclick", toggleSize);
  $("zoom-stage").addEventListener("pointermove", drag);
  $("zoom-stage").addEventListener("wheel", (event) => {
    event.preventDefault();
    const stage = $("zoom-stage").getBoundingClientRect();
    rescale(event.deltaY < 0 ? 1.15 : 1 / 1.15, event.clientX - stage.left, event.clientY - stage.top);
  }, { passive: false });
  document.addEventListener("keydown", pressed);
  addEventListener("hashchange", () => { readAddress(); begin().catch(showFault); });
}

async function begin() {
  await refreshAbout();
  showFilters();
  loadSurvey().catch(showFault);
  await look();
}

readAddress();
wire();
begin().catch(showFault);
