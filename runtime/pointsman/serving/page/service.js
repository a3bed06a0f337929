// Asking the service, and reading its streams.

/** What the service says that went wrong. */
export class Refused extends Error {}

async function asked(path, body, key, signal) {
  const headers = { "Content-Type": "application/json" };
  if (key) headers.Authorization = `Bearer ${key}`;
  const answer = await fetch(path, { method: body ? "POST" : "GET", headers, signal, body: body && JSON.stringify(body) });
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => null);
  throw new Refused(told?.error?.message ?? `the service answers with status ${answer.status}`);
}

/** A JSON answer. */
export async function ask(path, body, key, signal) {
  return (await asked(path, body, key, signal)).json();
}

/** The events of a streamed answer: `{name, data}`. */
export async function* stream(path, body, key, signal) {
  const answer = await asked(path, { ...body, stream: true }, key, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let left = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (left + value).split("\n\n");
    left = blocks.pop();
    for (const block of blocks) {
      const event = eventOf(block);
      if (event.name === "error") throw new Refused(event.data.error.message);
      yield event;
    }
  }
}

function eventOf(block) {
  const fields = Object.fromEntries(block.split("\n").map((line) => line.split(/: (.*)/s)));
  return { name: fields.event, data: JSON.parse(fields.data) };
}
