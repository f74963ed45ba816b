(() => {
  "use strict";
  const root = document.documentElement;
  const themeButton = document.getElementById("theme");
  const remembered = () => {
    try { return localStorage.getItem("theme"); } catch { return null; }
  };
  const isDark = () =>
    root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const showTheme = () => themeButton.setAttribute("aria-pressed", String(isDark()));
  if (["dark", "light"].includes(remembered())) root.dataset.theme = remembered();
  themeButton.hidden = false;
  showTheme();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);
  themeButton.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("theme", root.dataset.theme); } catch { /* pages from a file may have no storage */ }
    showTheme();
  });

  const valueOf = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.value ?? cell.textContent.trim();
    const number = Number(text);
    return text !== "" && !Number.isNaN(number) ? number : text;
  };
  const compare = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return a.localeCompare(b, undefined, { numeric: true });
  };
  const makeSortable = (table) => {
    const headers = [...table.tHead.rows[0].cells];
    headers.forEach((header, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = header.textContent;
      header.replaceChildren(button);
      button.addEventListener("click", () => {
        const down = header.getAttribute("aria-sort") === "ascending";
        headers.forEach((other) => other.removeAttribute("aria-sort"));
        header.setAttribute("aria-sort", down ? "descending" : "ascending");
        const body = table.tBodies[0];
        const rows = [...body.rows].sort((a, b) => compare(valueOf(a, column), valueOf(b, column)));
        body.append(...(down ? rows.reverse() : rows));
      });
    });
  };
  const makeFilter = (block, table) => {
    const rows = [...table.tBodies[0].rows];
    const label = document.createElement("label");
    const input = document.createElement("input");
    const count = document.createElement("span");
    const bar = document.createElement("div");
    input.type = "search";
    input.setAttribute("aria-label", `Filter rows: ${table.caption.textContent}`);
    label.append("Filter rows ", input);
    count.setAttribute("role", "status");
    count.className = "calm";
    bar.className = "filter";
    bar.append(label, count);
    block.prepend(bar);
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        shown += row.hidden ? 0 : 1;
      }
      count.textContent = words.length ? `${shown} of ${rows.length} rows` : "";
    });
  };
  for (const block of document.querySelectorAll(".sortable")) {
    const table = block.querySelector("table");
    makeSortable(table);
    if (table.tBodies[0].rows.length > 5) makeFilter(block, table);
  }
})();
