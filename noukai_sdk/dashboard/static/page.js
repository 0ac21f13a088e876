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
    const isTyping = event.target.matches?.("input:not([type=checkbox]), textarea, select, [contenteditable]");
    if (isTyping && event.key === "Escape") event.target.blur();
    if (isTyping || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const own = document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
    if (event.key === "/") document.querySelector("[data-search]")?.focus();
    else if (event.key === "j") move(1);
    else if (event.key === "k") move(-1);
    else if (event.key === "?") document.getElementById("keys").showModal();
    else if (own !== null && !event.repeat) own.click();
    else return;
    event.preventDefault();
  });

  // A live part is replaced while somebody reads it. An open menu, a selected text, a field that is typed in, or a row
  // that is pointed at and would be on the next page, makes the change wait. The focus, what is chosen, and the row under the pointer or the first one in view stay where
  // they are.
  const inRow = "a, button, summary, input";
  const waiting = new Map();
  let isPressed = false;
  let pointer = null;

  // Not `:hover`, which elements that have just come do not have.
  function rowUnderPointer(part) {
    const row = pointer && document.elementFromPoint(...pointer)?.closest("[data-row]");
    return row && part.contains(row) ? row : null;
  }

  const rowsIn = (html) => html.split(" data-row").length - 1;

  // Whether a row that may be clicked next has no place among those that have come since.
  function isPushedOut(part, html) {
    const used = [rowUnderPointer(part), document.activeElement?.closest("[data-row]")];
    const isGone = (row) => row?.id && part.contains(row) && !html.includes(`id="${row.id}"`);
    return rowsIn(html) >= rowsOf(part).length && used.some(isGone);
  }

  function isInUse(part, html) {
    const selection = getSelection();
    const isSelected = !selection.isCollapsed && selection.containsNode(part, true);
    const isTyping = document.activeElement?.matches("textarea, select, input:not([type=checkbox])");
    return isPressed || isSelected || (isTyping && part.contains(document.activeElement))
      || part.querySelector("details.menu[open]") !== null || isPushedOut(part, html);
  }

  const keyOf = (row) => row.id || row.querySelector("a[href]")?.href;
  const rowsOf = (part) => [...part.querySelectorAll("[data-row]")];
  const findRow = (part, key) => rowsOf(part).find((row) => keyOf(row) === key);

  // What must not move: the row that may be clicked next, or in a page that is scrolled down, the first row in view.
  function rowToHold(part) {
    const pointed = rowUnderPointer(part);
    if (pointed !== null || part.getBoundingClientRect().top >= 0) return pointed;
    return rowsOf(part).find((row) => row.getBoundingClientRect().bottom > 0) ?? null;
  }

  function hold(part, row, top) {
    const by = row.getBoundingClientRect().top - top;
    const missing = scrollY + by + innerHeight - document.body.offsetHeight;
    if (missing > 0) part.style.paddingBottom = `${(parseFloat(part.style.paddingBottom) || 0) + missing}px`;
    if (by !== 0) scrollBy({ top: by, behavior: "instant" });
  }

  function keepPlace(part, change) {
    const active = part.contains(document.activeElement) ? document.activeElement : null;
    const row = active?.closest("[data-row]");
    const at = row ? { key: keyOf(row), row: rowsOf(part).indexOf(row), place: [...row.querySelectorAll(inRow)].indexOf(active) } : null;
    const held = rowToHold(part);
    const top = held?.getBoundingClientRect().top;
    const before = new Set(rowsOf(part).map(keyOf));
    const chosen = [...part.querySelectorAll("input:checked")].map((input) => [keyOf(input.closest("[data-row]") ?? input), input.value]);
    change();
    for (const [key, value] of chosen) {
      const input = findRow(part, key)?.querySelector(`input[value="${CSS.escape(value)}"]`);
      if (input) input.checked = true;
    }
    if (held !== null && findRow(part, keyOf(held))) {
      hold(part, findRow(part, keyOf(held)), top);
      showNewer(rowsOf(part).filter((each) => !before.has(keyOf(each)) && each.getBoundingClientRect().bottom <= 0).length);
    }
    if (at !== null) {
      const rows = rowsOf(part);
      const same = findRow(part, at.key);
      // A row that has gone leaves its place to the next one.
      const to = same ? same.querySelectorAll(inRow)[at.place] : linkOf(rows[Math.min(at.row, rows.length - 1)] ?? part);
      to?.focus({ preventScroll: true });
      if (held === null) to?.scrollIntoView({ block: "nearest" });
    } else if (active !== null) {
      [...part.querySelectorAll(inRow)].find((each) => each.textContent === active.textContent)?.focus({ preventScroll: true });
    }
    showAges();
  }

  function replace(part, html) {
    keepPlace(part, () => htmx.swap(part, html, { swapStyle: "innerHTML", swapDelay: 0, settleDelay: 0 }));
  }

  document.addEventListener("htmx:sseBeforeMessage", (event) => {
    event.preventDefault();
    const { target: part, detail: { data: html } } = event;
    waiting.delete(part);
    if (isInUse(part, html)) waiting.set(part, html);
    else replace(part, html);
    showLive(waiting.size === 0 ? "Live" : "Paused");
  });

  function catchUp() {
    for (const [part, html] of [...waiting]) {
      if (part.isConnected && isInUse(part, html)) continue;
      waiting.delete(part);
      if (part.isConnected) replace(part, html);
      showLive("Live");
    }
  }
  for (const type of ["change", "selectionchange", "focusout", "pointerout"]) document.addEventListener(type, () => setTimeout(catchUp));
  document.addEventListener("toggle", catchUp, true);
  addEventListener("pointermove", (event) => {
    pointer = event.pointerType === "touch" ? null : [event.clientX, event.clientY];
  });
  document.documentElement.addEventListener("pointerleave", () => { pointer = null; });
  // Between the press of a button and its release, the click would be lost.
  document.addEventListener("pointerdown", () => { isPressed = true; });
  for (const type of ["pointerup", "pointercancel", "dragend", "blur"]) {
    addEventListener(type, () => { isPressed = false; setTimeout(catchUp); });
  }

  // How many rows have come above what is in view.
  let newer = null;
  function showNewer(count) {
    if (count === 0) return;
    if (newer === null) {
      newer = document.createElement("button");
      newer.type = "button";
      newer.className = "newer";
      newer.count = 0;
      newer.addEventListener("click", () => scrollTo({ top: 0 }));
      document.getElementById("main").append(newer);
    }
    newer.count += count;
    newer.textContent = `${newer.count} new above`;
  }
  addEventListener("scroll", () => {
    if (newer === null || scrollY > 0) return;
    newer.remove();
    newer = null;
    for (const part of document.querySelectorAll("[sse-swap]")) part.style.paddingBottom = "";
  });

  function showLive(text) {
    for (const part of document.querySelectorAll("[data-live]")) {
      part.textContent = text;
      part.classList.toggle("on", text === "Live");
    }
  }

  // Browsers open six connections to a server, for all tabs together. So three tabs at most keep a stream. The others
  // look every few seconds, and tabs that nobody sees do not look.
  const MOST_STREAMS = 3;
  const LOOK_PAUSE = 5000;

  async function takeStream() {
    // Only https and this machine have locks.
    for (let number = 0; navigator.locks && number < MOST_STREAMS; number += 1) {
      const release = await new Promise((resolve) => {
        navigator.locks.request(`noukai-stream-${number}`, { ifAvailable: true }, (lock) =>
          (lock === null ? resolve(null) : new Promise((done) => { resolve(done); })));
      });
      if (release !== null) return release;
    }
    return null;
  }

  // Stands in place of an EventSource.
  class LiveSource {
    constructor(url) {
      this.url = new URL(url, location.href);
      this.readyState = EventSource.CONNECTING;
      this.listeners = [];
      this.source = null;
      this.attempt = 0;
      this.failures = 0;
      this.onVisible = () => (document.hidden ? this.disconnect() : this.connect());
      document.addEventListener("visibilitychange", this.onVisible);
      this.connect();
    }

    addEventListener(type, listener) {
      this.listeners.push([type, listener]);
      this.source?.addEventListener(type, listener);
    }

    removeEventListener(type, listener) {
      this.listeners = this.listeners.filter((each) => each[0] !== type || each[1] !== listener);
      this.source?.removeEventListener(type, listener);
    }

    close() {
      this.readyState = EventSource.CLOSED;
      document.removeEventListener("visibilitychange", this.onVisible);
      this.disconnect();
      showLive("");
    }

    disconnect() {
      this.attempt += 1;
      clearTimeout(this.timer);
      this.source?.close();
      this.source = null;
      this.release?.();
      this.release = null;
    }

    later(pause) {
      this.disconnect();
      this.timer = setTimeout(() => this.connect(), pause);
    }

    async connect() {
      this.disconnect();
      const { attempt } = this;
      const isOver = () => attempt !== this.attempt || document.hidden || this.readyState === EventSource.CLOSED;
      if (isOver()) return;
      const release = await takeStream();
      if (isOver()) {
        release?.();
        return;
      }
      this.release = release;
      const isShort = release === null;
      if (isShort) this.url.searchParams.set("once", "1");
      else this.url.searchParams.delete("once");
      const source = this.source = new EventSource(this.url);
      for (const [type, listener] of this.listeners) source.addEventListener(type, listener);
      // The server sends nothing that is seen already.
      source.addEventListener("change", (event) => { this.url.searchParams.set("seen", event.lastEventId); });
      let isOpen = false;
      source.onopen = (event) => {
        isOpen = true;
        this.failures = 0;
        this.readyState = EventSource.OPEN;
        showLive("Live");
        this.onopen?.(event);
        if (isShort) this.timer = setTimeout(() => this.later(LOOK_PAUSE), 1000);
      };
      source.onerror = () => {
        if (isShort && isOpen) return this.later(LOOK_PAUSE);
        showLive("Not live");
        this.failures += 1;
        return this.later(Math.min(500 * 2 ** this.failures, 10000));
      };
    }
  }
  if (window.htmx) htmx.createEventSource = (url) => new LiveSource(url);

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
    const menu = event.key === "Escape" ? document.querySelector("details.menu[open]") : null;
    if (menu) { menu.open = false; menu.querySelector("summary").focus(); }
  });

  // That a replay has ended is said; a button that has gone leaves the focus to the page.
  document.addEventListener("htmx:load", (event) => {
    const replay = event.detail.elt;
    if (replay.id !== "replay" || replay.hasAttribute("hx-get")) return;
    say("The replay has ended");
    if (document.activeElement === document.body) document.getElementById("main").focus({ preventScroll: true });
  });

  // Filters: a choice is applied at once, and what is empty stays out of the URL.
  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-submits]")) event.target.form.requestSubmit();
  });
  const empty = (form) => [...form.elements].filter((field) => field.name && !field.value);
  // A second click on the same button sends nothing.
  const sentAt = new WeakMap();
  document.addEventListener("submit", (event) => {
    if (event.target.method === "post") {
      if (Date.now() - (sentAt.get(event.target) ?? 0) < 1000) event.preventDefault();
      else sentAt.set(event.target, Date.now());
    }
    if (event.target.method === "get") for (const field of empty(event.target)) field.disabled = true;
  });
  addEventListener("pageshow", () => {
    for (const field of document.querySelectorAll("form.filters :disabled")) field.disabled = false;
  });
})();
