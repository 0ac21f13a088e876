// What all pages share: copy buttons, the keyboard, the help, and live parts.
//
//   data-copy="text"         copies the text        data-copies="id"   copies the text of the element with this id
//   data-opens="id"          opens this dialog      data-search        gets the focus by "/"
//   data-row                 j and k move between these; Enter opens the first link in it
//   data-key="r"             this key clicks the element
(() => {
  "use strict";

  document.documentElement.classList.add("script");

  const say = (text) => { document.getElementById("announce").textContent = text; };

  async function copy(button) {
    const { copy: text, copies } = button.dataset;
    const value = copies === undefined ? text : document.getElementById(copies).textContent;
    try {
      await navigator.clipboard.writeText(value);
    } catch {
      // Only https and this machine have a clipboard.
      const area = document.createElement("textarea");
      area.value = value;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
      button.focus();
    }
    say("Copied");
    const label = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = label; }, 1200);
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy], [data-copies]");
    if (button !== null && button.textContent !== "Copied") copy(button);
    const opener = event.target.closest("[data-opens]");
    if (opener !== null) document.getElementById(opener.dataset.opens).showModal();
  });

  const linkOf = (row) => row.querySelector("a[href]") ?? row.querySelector("summary") ?? row;

  function move(by) {
    const rows = [...document.querySelectorAll("[data-row]")];
    if (rows.length === 0) return;
    const now = rows.indexOf(document.activeElement?.closest("[data-row]"));
    const next = now === -1 ? (by > 0 ? 0 : rows.length - 1) : Math.min(Math.max(now + by, 0), rows.length - 1);
    linkOf(rows[next]).focus();
    rows[next].scrollIntoView({ block: "nearest" });
  }

  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.matches?.("input, textarea, select, [contenteditable]");
    if (isTyping && event.key === "Escape") event.target.blur();
    if (isTyping || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const own = document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
    if (event.key === "/") document.querySelector("[data-search]")?.focus();
    else if (event.key === "j") move(1);
    else if (event.key === "k") move(-1);
    else if (event.key === "?") document.getElementById("keys").showModal();
    else if (own !== null) own.click();
    else return;
    event.preventDefault();
  });

  // A live part is replaced while somebody reads it: keep what is open, and the focus.
  document.addEventListener("htmx:sseBeforeMessage", (event) => {
    if (event.target.querySelector("details[open], :popover-open")) event.preventDefault();
  });
  let focused = null;
  document.addEventListener("htmx:beforeSwap", () => { focused = null; });
  document.addEventListener("htmx:sseBeforeMessage", (event) => {
    const row = event.target.contains(document.activeElement) ? document.activeElement.closest("[data-row][id]") : null;
    focused = row && { id: row.id, index: [...row.querySelectorAll("a, button, summary")].indexOf(document.activeElement) };
  });
  document.addEventListener("htmx:sseMessage", () => {
    const row = focused && document.getElementById(focused.id);
    row?.querySelectorAll("a, button, summary")[focused.index]?.focus();
  });

  // Browsers open six connections to a server: tabs that nobody looks at must not hold them.
  const sources = new Set();
  document.addEventListener("htmx:sseOpen", (event) => { sources.add(event.detail.source); });
  document.addEventListener("visibilitychange", () => {
    for (const source of sources) {
      if (document.hidden) source.close();
      // The extension opens a closed source again after an error.
      else if (source.readyState === EventSource.CLOSED) { sources.delete(source); source.onerror?.(new Event("error")); }
    }
  });
})();
