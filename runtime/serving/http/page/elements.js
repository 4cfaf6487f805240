// Elements of the page, found and made.

/** The element with that id. */
export const $ = (id) => document.getElementById(id);

/** A new element: attributes with a dash are attributes, all others properties; strings among the children are text. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.includes("-")) made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

/** Fills a select; the choice stays where it is still there. Choices are [value, text]. */
export function choices(select, pairs) {
  const before = select.value;
  select.replaceChildren(...pairs.map(([value, text]) => element("option", { value, textContent: text })));
  if (pairs.some(([value]) => String(value) === before)) select.value = before;
}

let spoken = "";

/** Says something to those who do not see the page. */
export function say(text) {
  if (text === spoken) return;
  spoken = text;
  $("live").textContent = text;
}

/** "1 picture", "2 pictures". */
export const counted = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;
