// What happens when somebody writes, chooses or fills.

import { showExperts } from "./experts.js";
import { ask, Refused, stream } from "./service.js";
import { withBlanks, Words } from "./words.js";

const at = (id) => document.getElementById(id);
const SENTINEL = /<extra_id_(\d+)>/;

const words = new Words(at("words"), () => say(counted()));
let running = null;
let withRouting = new Set();

at("text").addEventListener("input", () => words.show(at("text").value));
at("stop").addEventListener("click", () => running?.abort());
at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  fill();
});
words.show(at("text").value);
listModels();

function say(sentence, failed = false) {
  at("status").textContent = sentence;
  at("status").classList.toggle("failed", failed);
}

function counted() {
  const { blanks } = withBlanks(words.words);
  return blanks === 1 ? "1 blank" : `${blanks} blanks`;
}

async function listModels() {
  const list = await ask("v1/models", null, at("key").value).catch(() => ({ data: [] }));
  at("model").replaceChildren(...list.data.map(({ id }) => new Option(id, id)));
  withRouting = new Set(list.data.filter(({ routing }) => routing).map(({ id }) => id));
}

async function fill() {
  const { text, blanks } = withBlanks(words.words);
  if (!blanks) return say("There is no blank: choose a word first.", true);
  running?.abort();
  running = new AbortController();
  const { signal } = running;
  at("stop").disabled = false;
  say("Filling …");
  try {
    await filled(new Asked(text, signal));
    say(`Done: ${at("filled").textContent}`);
  } catch (error) {
    if (signal.aborted) say("Stopped.");
    else say(error instanceof Refused ? error.message : "The service cannot be reached.", true);
  } finally {
    if (running?.signal === signal) at("stop").disabled = true;
  }
}

/** A text that was asked for, and what all requests for it have in common. */
class Asked {
  constructor(text, signal) {
    this.text = text;
    this.signal = signal;
    this.indices = text.split(SENTINEL).filter((_, place) => place % 2).map(Number);
  }

  body(more) {
    return { text: this.text, ...(at("model").value && { model: at("model").value }), ...more };
  }

  ask(path, more) {
    return ask(path, this.body(more), at("key").value, this.signal);
  }

  stream(more) {
    return stream("v1/infill", this.body(more), at("key").value, this.signal);
  }
}

async function filled(asked) {
  at("result").hidden = false;
  at("experts").hidden = true;
  at("spans").replaceChildren();
  const spans = new Map();
  showFilled(asked, spans);
  let best = null;
  const routing = withRouting.has(at("model").value);
  for await (const { name, data } of asked.stream({ num_beams: 1, num_return_sequences: 1, do_sample: false, routing })) {
    if (name === "span") showFilled(asked, spans.set(data.index, data));
    if (name === "fills") best = data;
  }
  for (const span of best.fills[0].spans) spans.set(span.index, span);
  showFilled(asked, spans);
  if (best.routing) showRouting(best.routing);
  await showAlternatives(asked, spans);
}

function showFilled(asked, spans) {
  const parts = asked.text.split(SENTINEL).map((part, place) => {
    if (place % 2 === 0) return part;
    const mark = document.createElement("mark");
    const span = spans.get(Number(part));
    mark.textContent = span?.text || "…";
    mark.classList.toggle("growing", span?.state === "growing");
    return mark;
  });
  at("filled").replaceChildren(...parts);
}

/** For each span the texts that beam search finds, and how likely each is beside the others. */
async function showAlternatives(asked, spans) {
  const count = Math.max(1, Number(at("alternatives").value) || 1);
  if (count === 1) return;
  const { results } = await asked.ask("v1/infill", { num_beams: count, num_return_sequences: count, do_sample: false });
  const chosen = asked.indices.map((index) => spans.get(index).text);
  const found = asked.indices.map((_, place) => {
    const texts = results[0].fills.map((one) => one.spans[place].text);
    return [...new Set([chosen[place], ...texts])].slice(0, count);
  });
  const candidates = found.flatMap((texts, place) => texts.map((text) => chosen.with(place, text)));
  const { scores } = await asked.ask("v1/score", { candidates });
  let next = 0;
  const shown = found.map((texts, place) => {
    const own = scores.slice(next, (next += texts.length));
    return choices(asked, spans, place, likelihoods(texts, own));
  });
  at("spans").replaceChildren(...shown);
}

/** Texts with their share of the likelihood of all of them, likeliest first. */
function likelihoods(texts, scores) {
  const highest = Math.max(...scores);
  const weights = scores.map((score) => Math.exp(score - highest));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const pairs = texts.map((text, place) => ({ text, share: weights[place] / total }));
  return pairs.sort((a, b) => b.share - a.share);
}

function choices(asked, spans, place, alternatives) {
  const index = asked.indices[place];
  const group = document.createElement("fieldset");
  const legend = document.createElement("legend");
  legend.textContent = `Blank ${place + 1}`;
  group.append(legend, ...alternatives.map(({ text, share }) => {
    const span = spans.get(index);
    const radio = Object.assign(document.createElement("input"), { type: "radio", name: `blank-${index}` });
    radio.checked = text === span.text;
    radio.addEventListener("change", () => {
      spans.set(index, { ...span, text });
      showFilled(asked, spans);
      say(at("filled").textContent);
    });
    return alternative(radio, text, share);
  }));
  return group;
}

function alternative(radio, text, share) {
  const label = Object.assign(document.createElement("label"), { className: "alternative" });
  const shown = Object.assign(document.createElement("span"), { textContent: text });
  const percent = `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
  const number = Object.assign(document.createElement("span"), { className: "percent", textContent: percent });
  const meter = Object.assign(document.createElement("meter"), { min: 0, max: 1, value: share });
  meter.setAttribute("aria-hidden", "true");
  label.append(radio, shown, number, meter);
  return label;
}

function showRouting(routing) {
  at("experts").hidden = false;
  at("experts-hint").textContent = `Each token goes to one of ${routing.num_experts} experts in each sparse layer.`;
  showExperts(at("encoder-experts"), "Encoder", routing.encoder);
  showExperts(at("decoder-experts"), "Decoder", routing.decoder);
}
