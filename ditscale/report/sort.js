// Tables of class "sortable": a click on a header sorts by it, a second click reverses the order. Without scripts, tables are not sortable.
"use strict";
(() => {
  const key = (row, column) => {
    const cell = row.cells[column];
    if ("value" in cell.dataset) return cell.dataset.value === "" ? NaN : Number(cell.dataset.value);
    const text = cell.textContent.trim();
    const plain = text.replace(/,/g, "").replace("−", "-").replace(/ ?%$/, "");
    return plain !== "" && Number.isFinite(Number(plain)) ? Number(plain) : text;
  };

  const compare = (a, b) => {
    const absent = (value) => value === "" || Number.isNaN(value);
    if (absent(a.key) || absent(b.key)) return absent(a.key) - absent(b.key) || a.place - b.place;
    if (typeof a.key === "number" && typeof b.key === "number") return a.key - b.key || a.place - b.place;
    return String(a.key).localeCompare(String(b.key), "en", { numeric: true }) || a.place - b.place;
  };

  const sort = (table, header) => {
    const down = header.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows].map((row, place) => ({ row, place, key: key(row, header.cellIndex) }));
    const absent = (one) => one.key === "" || Number.isNaN(one.key);
    rows.sort((a, b) => (down && !absent(a) && !absent(b) ? compare(b, a) : compare(a, b)));
    table.tBodies[0].append(...rows.map((one) => one.row));
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    for (const header of table.tHead.rows[0].cells) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      button.addEventListener("click", () => sort(table, header));
      header.append(button);
      header.setAttribute("aria-sort", "none");
    }
  }
})();
