// A text as words that can be blanked. Neighbours that are blanked make one blank.

/** A blank that a text has itself, with its number. */
export const SENTINEL = /<extra_id_(0|[1-9]\d*)>/;

const SPACE = /(\s+)/;
const OPENING = `[([{"'‘“]*`;
const CLOSING = `[.,;:!?)\\]}"'’”]*`;
const BLANK = `_{3,}|${SENTINEL.source.replace("(", "(?:")}`;
const BLANKS = new RegExp(`(${OPENING}(?:${BLANK})${CLOSING})`);
const TYPED = new RegExp(`^(${OPENING})(${BLANK})(${CLOSING})$`);
const WORD = new RegExp(`^(${OPENING})(.*?)(${CLOSING})$`, "s");

/** The words of a text: the white space and what else stands before each, itself, what stands behind it, whether it is
 * blanked, and the number of a blank that has one. */
export function wordsOf(text) {
  const pieces = text.split(SPACE);
  return pieces.flatMap((piece, place) => {
    if (place % 2) return [];
    const words = piece.split(BLANKS).filter(Boolean).map(wordOf);
    if (words.length) words[0].space = place ? pieces[place - 1] : "";
    return words;
  });
}

function wordOf(piece) {
  const typed = TYPED.exec(piece);
  const [, before, core, after] = typed ?? WORD.exec(piece);
  if (!core) return { space: "", before: "", core: piece, after: "", blank: false, number: null };
  const number = typed && SENTINEL.exec(core)?.[1];
  return { space: "", before, core, after, blank: Boolean(typed), number: number ? Number(number) : null };
}

/** The text that the model is given: sentinels where words are blanked, with numbers that the text itself does not use. */
export function withBlanks(words) {
  const used = new Set(words.map((word) => word.number));
  let blanks = 0;
  let number = -1;
  let text = "";
  words.forEach((word, place) => {
    if (!goesOn(word, words[place - 1])) {
      text += word.space + word.before;
      if (word.blank && word.number === null) do number++; while (used.has(number));
      text += word.blank ? `<extra_id_${word.number ?? number}>` : word.core;
      blanks += word.blank;
    }
    text += word.after;
  });
  return { text, blanks };
}

/** Whether a word is in the blank of the word before it; a blank with a number of its own is one for itself. */
function goesOn(word, last) {
  return word.blank && last?.blank && word.number === null && last.number === null && !last.after && !word.before;
}

/** Shows words as a toolbar of toggles, one of which is in the order of tabs. */
export class Words {
  constructor(toolbar, changed) {
    this.toolbar = toolbar;
    this.changed = changed;
    this.words = [];
    toolbar.addEventListener("click", (event) => this.#toggle(event.target));
    toolbar.addEventListener("keydown", (event) => this.#move(event));
  }

  show(text) {
    const blanked = new Map(this.words.map((word, place) => [`${place} ${word.core}`, word.blank]));
    this.words = wordsOf(text);
    this.words.forEach((word, place) => { word.blank ||= blanked.get(`${place} ${word.core}`) ?? false; });
    this.toolbar.replaceChildren(...this.words.map((word, place) => this.#button(word, place)));
  }

  #button(word, place) {
    const button = document.createElement("button");
    Object.assign(button, { type: "button", className: "word", textContent: word.core, tabIndex: place ? -1 : 0 });
    button.dataset.place = place;
    button.setAttribute("aria-pressed", word.blank);
    if (word.number !== null) button.setAttribute("aria-disabled", true);
    return button;
  }

  #toggle(button) {
    const word = this.words[button.dataset.place];
    if (!word) return;
    if (word.number === null) word.blank = !word.blank;
    button.setAttribute("aria-pressed", word.blank);
    this.#focus(button);
    this.changed();
  }

  #move(event) {
    const buttons = [...this.toolbar.children];
    const at = buttons.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (to === undefined || at < 0) return;
    event.preventDefault();
    this.#focus(buttons[Math.min(Math.max(to, 0), buttons.length - 1)]);
  }

  #focus(button) {
    for (const other of this.toolbar.children) other.tabIndex = -1;
    button.tabIndex = 0;
    button.focus();
  }
}
