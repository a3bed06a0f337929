// What happens when somebody writes, chooses or fills.

import { showExperts } from "./experts.js";
import { ask, Refused, stream } from "./service.js";
import { SENTINEL, withBlanks, Words } from "./words.js";

const at = (id) => document.getElementById(id);

const words = new Words(at("words"), () => say(counted()));
let running = null;
let withRouting = new Set();

at("text").addEventListener("input", () => words.show(at("text").value));
at("stop").addEventListener("click", () => running?.abort());
at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  fill();
});
at("key").addEventListener("change", () => { listing = listModels(); });
words.show(at("text").value);
let listing = listModels();

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
  running?.abort();
  hideResult();
  if (!blanks) return say("There is no blank: choose a word first.", true);
  running = new AbortController();
  const { signal } = running;
  at("stop").disabled = false;
  say("Filling …");
  try {
    await listing;
    const asked = new Asked(text, signal);
    await showAlternatives(asked, await showBest(asked));
    say(`Done: ${at("filled").textContent}`);
  } catch (error) {
    if (running?.signal !== signal) return;
    if (signal.aborted) return say("Stopped.");
    if (!at("filled").dataset.complete) hideResult();
    say(error instanceof Refused ? ofOneText(error.message) : "The service cannot be reached.", true);
  } finally {
    if (running?.signal === signal) at("stop").disabled = true;
  }
}

/** What a service says of the first of its texts: the page has but one. */
function ofOneText(sentence) {
  return sentence.replace(/\binput 0\b/, "the text");
}

function hideResult() {
  at("result").hidden = at("experts").hidden = true;
  delete at("filled").dataset.complete;
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

/** The fill of greedy search, as its spans grow; gives them by number. */
async function showBest(asked) {
  at("result").hidden = false;
  at("alternatives-hint").hidden = true;
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
  at("filled").dataset.complete = true;
  if (best.routing) showRouting(best.routing);
  return spans;
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

/** For each blank the texts that beam search finds, each with its probability in the fill that is shown. */
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
  const { spans: scores } = await asked.ask("v1/score", { candidates });
  let next = 0;
  const shown = found.map((texts, place) => {
    const alternatives = texts.map((text) => ({ text, probability: Math.exp(scores[next++][place]) }));
    return choices(asked, spans, place, alternatives.sort((a, b) => b.probability - a.probability));
  });
  at("spans").replaceChildren(...shown);
  at("alternatives-hint").hidden = false;
}

function choices(asked, spans, place, alternatives) {
  const index = asked.indices[place];
  const group = document.createElement("fieldset");
  const legend = document.createElement("legend");
  legend.textContent = `Blank ${place + 1}`;
  group.append(legend, ...alternatives.map(({ text, probability }) => {
    const span = spans.get(index);
    const radio = Object.assign(document.createElement("input"), { type: "radio", name: `blank-${index}` });
    radio.checked = text === span.text;
    radio.addEventListener("change", () => {
      spans.set(index, { ...span, text });
      showFilled(asked, spans);
      say(at("filled").textContent);
    });
    return alternative(radio, text, probability);
  }));
  return group;
}

function alternative(radio, text, probability) {
  const label = Object.assign(document.createElement("label"), { className: "alternative" });
  const shown = Object.assign(document.createElement("span"), { textContent: text });
  const number = Object.assign(document.createElement("span"), { className: "percent", textContent: percent(probability) });
  const meter = Object.assign(document.createElement("meter"), { min: 0, max: 1, value: probability });
  meter.setAttribute("aria-hidden", "true");
  label.append(radio, shown, number, meter);
  return label;
}

function percent(probability) {
  if (probability < 0.001) return "< 0.1 %";
  return `${(100 * probability).toFixed(probability < 0.1 ? 1 : 0)} %`;
}

function showRouting(routing) {
  at("experts").hidden = false;
  at("experts-hint").textContent = `Each token goes to one of ${routing.num_experts} experts in each sparse layer; a cell has its number.`;
  showExperts(at("encoder-experts"), "Encoder", routing.encoder);
  showExperts(at("decoder-experts"), "Decoder", routing.decoder);
}
