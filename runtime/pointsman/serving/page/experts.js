// Which expert took each token, as a table: a row for each layer, a column for each token.

const GOLDEN_ANGLE = 137.508; // degrees: neighbours in number are far apart in hue

/** Fill an element with the choices of one stack: `{tokens, layers: [{block, experts}]}`. */
export function showExperts(element, title, routing) {
  const table = document.createElement("table");
  table.createCaption().textContent = `${title}: the expert of each token, layer by layer`;
  const head = table.createTHead().insertRow();
  head.append(heading("Layer", "col"), ...routing.tokens.map((token) => heading(token, "col")));
  const body = table.createTBody();
  for (const layer of routing.layers) {
    const row = body.insertRow();
    row.append(heading(`Block ${layer.block}`, "row"), ...layer.experts.map(cell));
  }
  const frame = document.createElement("div");
  Object.assign(frame, { className: "wide", tabIndex: 0 });
  frame.setAttribute("role", "region");
  frame.setAttribute("aria-label", table.caption.textContent);
  frame.append(table);
  element.replaceChildren(frame);
}

function heading(text, scope) {
  const one = document.createElement("th");
  Object.assign(one, { scope, textContent: text });
  return one;
}

function cell(expert) {
  const one = document.createElement("td");
  one.textContent = expert;
  one.style.setProperty("background-color", `hsl(${(expert * GOLDEN_ANGLE) % 360} 65% var(--light))`);
  return one;
}
