// Sorts a table by the column whose heading is clicked. The page is complete without this script.
document.querySelectorAll("table.sortable").forEach((table) => {
  const body = table.tBodies[0];
  table.querySelectorAll("th[data-column]").forEach((heading) => {
    const column = Number(heading.dataset.column);
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const ascending = heading.getAttribute("aria-sort") !== "ascending";
      table.querySelectorAll("th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      const keyed = Array.from(body.rows, (row) => {
        const cell = row.cells[column];
        const text = cell.dataset.key ?? cell.textContent.trim();
        return { row, text, number: text === "" ? NaN : Number(text) };
      });
      const order = (a, b) => {
        if ((a.text === "") !== (b.text === "")) return a.text === "" ? 1 : -1;
        const numbers = [a, b].every((item) => !Number.isNaN(item.number));
        const sign = numbers
          ? a.number - b.number
          : a.text.localeCompare(b.text, "en", { numeric: true });
        return ascending ? sign : -sign;
      };
      body.append(...keyed.sort(order).map((item) => item.row));
    });
  });
});
