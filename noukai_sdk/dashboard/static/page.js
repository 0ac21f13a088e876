// What all pages share: copy buttons, the keyboard, the help, and live parts.
//
//   data-copy="text"         copies the text        data-copies="id"   copies the text of the element with this id
//   data-opens="id"          opens this dialog      data-search        gets the focus by "/"
//   data-row                 j and k move between these; Enter opens the first link in it
//   data-key="r"             this key clicks the element
//   data-submits             a change of the field sends its form
//   data-live                says whether the live parts of the page are connected
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

  // A live part is replaced while somebody reads it. What is open or selected stays until it is not any longer;
  // the focus stays on its row.
  const inRow = "a, button, summary";
  let waiting = null;

  function isInUse(part) {
    const selection = getSelection();
    const isSelected = !selection.isCollapsed && part.contains(selection.anchorNode);
    return isSelected || part.querySelector("details.menu[open], input:checked") !== null;
  }

  function keepFocus(part, change) {
    const active = part.contains(document.activeElement) ? document.activeElement : null;
    const row = active?.closest("[data-row][id]");
    const place = row && [...row.querySelectorAll(inRow)].indexOf(active);
    change();
    if (row) document.getElementById(row.id)?.querySelectorAll(inRow)[place]?.focus();
    showAges();
  }

  function replace(part, html) {
    keepFocus(part, () => htmx.swap(part, html, { swapStyle: "innerHTML", swapDelay: 0, settleDelay: 0 }));
  }

  document.addEventListener("htmx:sseBeforeMessage", (event) => {
    event.preventDefault();
    if (isInUse(event.target)) waiting = { part: event.target, html: event.detail.data };
    else replace(event.target, event.detail.data);
  });

  function catchUp() {
    if (waiting === null || isInUse(waiting.part)) return;
    const { part, html } = waiting;
    waiting = null;
    replace(part, html);
  }
  document.addEventListener("toggle", catchUp, true);
  document.addEventListener("change", catchUp);
  document.addEventListener("selectionchange", catchUp);

  document.addEventListener("htmx:sseOpen", () => showLive("Live"));
  document.addEventListener("htmx:sseError", () => showLive("Not live"));
  function showLive(text) {
    for (const part of document.querySelectorAll("[data-live]")) {
      part.textContent = text;
      part.classList.toggle("on", text === "Live");
    }
  }

  // As views/times.py does it.
  function showAges() {
    for (const time of document.querySelectorAll("time[data-ago]")) {
      const seconds = Math.max(0, (Date.now() - new Date(time.dateTime)) / 1000);
      const [unit, length] = [["d", 86400], ["h", 3600], ["m", 60]].find(([, size]) => seconds >= size) ?? ["s", 1];
      time.textContent = `${Math.floor(seconds / length)}${unit} ago`;
    }
  }
  setInterval(showAges, 5000);

  // A menu closes when something else is clicked, and by Escape.
  const closeMenus = (but) => {
    for (const menu of document.querySelectorAll("details.menu[open]")) if (!menu.contains(but)) menu.open = false;
  };
  document.addEventListener("click", (event) => closeMenus(event.target));
  document.addEventListener("keydown", (event) => {
    const menu = event.key === "Escape" ? event.target.closest?.("details.menu[open]") : null;
    if (menu) { menu.open = false; menu.querySelector("summary").focus(); }
  });

  // Filters: a choice is applied at once, and what is empty stays out of the URL.
  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-submits]")) event.target.form.requestSubmit();
  });
  const empty = (form) => [...form.elements].filter((field) => field.name && !field.value);
  document.addEventListener("submit", (event) => {
    if (event.target.method === "get") for (const field of empty(event.target)) field.disabled = true;
  });
  addEventListener("pageshow", () => {
    for (const field of document.querySelectorAll("form.filters :disabled")) field.disabled = false;
  });

  // Browsers open six connections to a server: tabs that nobody looks at must not hold them.
  const sources = new Map();
  document.addEventListener("htmx:sseOpen", (event) => { sources.set(event.target, event.detail.source); });
  document.addEventListener("htmx:sseClose", (event) => { sources.delete(event.target); });
  document.addEventListener("visibilitychange", () => {
    for (const [part, source] of [...sources]) {
      if (document.hidden) source.close();
      else if (source.readyState === EventSource.CLOSED) {
        sources.delete(part);
        // The extension connects new elements alone.
        const fresh = part.cloneNode(true);
        keepFocus(part, () => { part.replaceWith(fresh); htmx.process(fresh); });
      }
    }
  });
})();
