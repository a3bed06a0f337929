// A text as words that can be blanked. Neighbours that are blanked make one blank.

const PIECE = /(\s+)/;
const TYPED = /^(_{3,})([.,;:!?)\]}"'’”]*)$/;
const WORD = /^([([{"'‘“]*)(.*?)([.,;:!?)\]}"'’”]*)$/s;

/** The words of a text: the white space and what else stands before each, itself, what stands behind it, and whether
 * it is blanked. */
export function wordsOf(text) {
  const pieces = text.split(PIECE);
  const words = [];
  for (let place = 0; place < pieces.length; place += 2) {
    if (pieces[place]) words.push(wordOf(pieces[place], place ? pieces[place - 1] : ""));
  }
  return words;
}

function wordOf(piece, space) {
  const typed = TYPED.exec(piece);
  if (typed) return { space, before: "", core: typed[1], after: typed[2], blank: true };
  const [, before, core, after] = WORD.exec(piece);
  if (!core) return { space, before: "", core: piece, after: "", blank: false };
  return { space, before, core, after, blank: false };
}

/** The text that the model is given: sentinels where words are blanked. */
export function withBlanks(words) {
  let number = 0;
  let text = "";
  words.forEach((word, place) => {
    const last = words[place - 1];
    const goesOn = word.blank && last?.blank && !last.after && !word.before;
    if (!goesOn) text += word.space + word.before + (word.blank ? `<extra_id_${number++}>` : word.core);
    text += word.after;
  });
  return { text, blanks: number };
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
    return button;
  }

  #toggle(button) {
    const word = this.words[button.dataset.place];
    if (!word) return;
    word.blank = !word.blank;
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
