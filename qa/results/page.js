"use strict";
const form = document.querySelector(".filter");
const said = form?.querySelector("output");

// Cells of numbers may go on behind the number: "57.27 [52.1, 62.0]". What is not known stays at the end.
function sort(table, column) {
  const headers = [...table.tHead.rows[0].cells];
  const sign = headers[column].getAttribute("aria-sort") === "ascending" ? -1 : 1;
  headers.forEach((header) => header.removeAttribute("aria-sort"));
  headers[column].setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  const text = (row) => (row.cells[column].querySelector("span") ?? row.cells[column]).textContent.trim();
  const rows = [...table.tBodies[0].rows];
  const numbers = rows.filter((row) => /^[-+]?\d/.test(text(row)));
  const numeric = 2 * numbers.length >= rows.length;
  const known = numeric ? numbers : rows.filter((row) => text(row) !== "-");
  const compare = (one, other) =>
    numeric ? parseFloat(text(one)) - parseFloat(text(other)) : text(one).localeCompare(text(other));
  known.sort((one, other) => sign * compare(one, other));
  table.tBodies[0].append(...known, ...rows.filter((row) => !known.includes(row)));
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((header, column) => {
    header.querySelector("button").addEventListener("click", () => sort(table, column));
  });
}

if (form) {
  const rows = [...document.querySelector(".changes").tBodies[0].rows];
  const plain = (text) => text.normalize("NFC").toLowerCase();
  const words = (row) => {
    const copy = row.cloneNode(true);
    copy.querySelectorAll(".tag, summary").forEach((each) => each.remove()); // what the page itself says
    return plain(copy.textContent);
  };
  const texts = new Map(rows.map((row) => [row, words(row)]));
  const filter = () => {
    const wanted = Object.fromEntries(new FormData(form));
    for (const row of rows) {
      row.hidden = !(
        texts.get(row).includes(plain(wanted.text.trim())) &&
        (!wanted.direction || row.dataset.direction === wanted.direction) &&
        (!wanted.run || row.cells[0].textContent === wanted.run)
      );
    }
    said.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} shown`;
  };
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());

  const button = form.querySelector(".contexts");
  const contexts = document.querySelectorAll(".changes details");
  const open = (all) => contexts.forEach((context) => (context.open = all));
  button.addEventListener("click", () => {
    const all = button.textContent.startsWith("Open");
    open(all);
    button.textContent = all ? "Close all contexts" : "Open all contexts";
  });
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...contexts].filter((context) => !context.open);
    open(true);
  });
  addEventListener("afterprint", () => closed.forEach((context) => (context.open = false)));
  form.hidden = false;
  filter(); // a browser that comes back to the page keeps what was typed
}
