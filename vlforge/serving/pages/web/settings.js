// The chat page's drawer of settings: how answers are drawn. Loaded before web.js, which owns the
// state and starts the page.
"use strict";

const DEFAULTS = { beams: 1, temperature: 0, top_p: 1, max_tokens: 256, seed: 0, fresh: true, system: "", hidden: false };

function sliders() {
  const { beams, tokens } = about.bounds;
  return [
    ["beams", "Beams", 1, beams, 1, about.low_resource ? "One: this server runs with few resources." : "Several are searched side by side; slower."],
    ["temperature", "Temperature", 0, 2, 0.05, "Higher is bolder; 0 is always the same."],
    ["top_p", "Top-p", 0.05, 1, 0.05, "Only the likeliest words that make up this share."],
    ["max_tokens", "Longest answer, tokens", Math.min(16, tokens), tokens, 16, ""],
  ];
}

function buildSettings() {
  $("sliders").replaceChildren(...sliders().map(([name, words, min, max, step, hint]) => {
    const shown = el("output", { id: `${name}-value` });
    const slider = el("input", { id: name, type: "range", min, max, step, disabled: min === max });
    slider.addEventListener("input", () => {
      state.settings[name] = Number(slider.value);
      showSettings();
      remember();
    });
    return el("label", { class: min === max ? "field is-off" : "field" }, el("span", {}, words, shown), slider, hint ? el("small", {}, hint) : null);
  }));
  $("hidden-label").hidden = about.models.length < 2;
  $("notes").replaceChildren(...about.models.flatMap((model) => model.notes.map((note) => el("p", {}, `${model.name}: ${note}`))));
}

function showSettings() {
  const { settings } = state;
  for (const [name] of sliders()) {
    $(name).value = settings[name];
    settings[name] = Number($(name).value);
    $(`${name}-value`).textContent = settings[name];
  }
  $("seed").value = settings.seed;
  $("fresh").checked = settings.fresh;
  $("system").value = settings.system;
  $("hidden").checked = settings.hidden;
  const isGreedy = settings.temperature === 0;
  $("seed").disabled = isGreedy || settings.fresh;
  $("fresh").disabled = isGreedy;
  $("top_p").disabled = isGreedy;
  $("top_p").closest(".field").classList.toggle("is-off", isGreedy);
  $("greedy").hidden = !isGreedy;
}

function onSetting(id, event, read) {
  $(id).addEventListener(event, () => {
    state.settings[id] = read($(id));
    showSettings();
    remember();
  });
}

function listenToSettings() {
  onSetting("seed", "change", (field) => Math.max(0, Math.min(Number.MAX_SAFE_INTEGER, Math.floor(Number(field.value)) || 0)));
  onSetting("fresh", "change", (field) => field.checked);
  onSetting("hidden", "change", (field) => field.checked);
  onSetting("system", "change", (field) => field.value);
  $("defaults").addEventListener("click", () => { state.settings = { ...DEFAULTS }; showSettings(); remember(); });
}
