"use strict";
(function () {
  // Folded parts: a link opens what it leads to, and paper shows all of them.
  var parts = Array.prototype.slice.call(document.querySelectorAll("details.part"));
  function reveal() {
    var target = location.hash.length > 1 ? document.getElementById(decodeURIComponent(location.hash.slice(1))) : null;
    var part = target ? target.closest("details.part") : null;
    if (!part || part.open) { return; }
    part.open = true;
    target.scrollIntoView();
  }
  window.addEventListener("hashchange", reveal);
  window.addEventListener("beforeprint", function () { parts.forEach(function (p) { p.dataset.was = p.open; p.open = true; }); });
  window.addEventListener("afterprint", function () { parts.forEach(function (p) { p.open = p.dataset.was === "true"; }); });
  reveal();

  // The table of all inputs: only the visible rows exist.
  var source = document.getElementById("table-data");
  if (!source) { return; }
  function unpacked(column) {
    if (Array.isArray(column)) { return column; }
    if (column.at) { return column.at.map(function (i) { return column.values[i]; }); }
    return Array.from({ length: column.rows }, function (_, i) { return column.first + i; });
  }
  var columns = JSON.parse(source.textContent);
  Object.keys(columns).forEach(function (name) { columns[name] = unpacked(columns[name]); });
  var names = Object.keys(columns), total = columns.index.length;
  var box = document.getElementById("all"), table = document.getElementById("rows"), body = table.tBodies[0], head = table.tHead;
  var filter = document.getElementById("filter"), count = document.getElementById("count");
  var height = 32, order = [], sorted = { name: "index", down: false }, drawn = "";
  table.setAttribute("aria-colcount", names.length);
  var row = head.insertRow();
  row.setAttribute("aria-rowindex", 1);
  names.forEach(function (name) {
    var cell = document.createElement("th"), button = document.createElement("button");
    cell.scope = "col";
    button.type = "button";
    button.textContent = name.replace(/_/g, " ");
    button.addEventListener("click", function () {
      sorted = { name: name, down: sorted.name === name ? !sorted.down : false };
      arrange();
    });
    cell.appendChild(button);
    row.appendChild(cell);
  });
  function compare(a, b) {
    var x = columns[sorted.name][a], y = columns[sorted.name][b];
    if (x === null || y === null) { return x === y ? a - b : x === null ? 1 : -1; }
    var way = typeof x === "number" ? x - y : String(x) < String(y) ? -1 : String(x) > String(y) ? 1 : 0;
    return way ? (sorted.down ? -way : way) : a - b;
  }
  function arrange() {
    var wanted = filter.value.trim().toLowerCase();
    order = [];
    for (var i = 0; i < total; i++) {
      if (!wanted || names.some(function (n) { var v = columns[n][i]; return v !== null && String(v).toLowerCase().indexOf(wanted) >= 0; })) { order.push(i); }
    }
    order.sort(compare);
    Array.prototype.forEach.call(row.cells, function (cell, i) {
      var here = names[i] === sorted.name;
      cell.setAttribute("aria-sort", here ? (sorted.down ? "descending" : "ascending") : "none");
      cell.firstChild.textContent = names[i].replace(/_/g, " ") + (here ? (sorted.down ? " ▼" : " ▲") : "");
    });
    table.setAttribute("aria-rowcount", order.length + 1);
    count.textContent = order.length === total ? "" : order.length + " of " + total + " rows";
    box.scrollTop = 0;
    drawn = "";
    paint();
  }
  function spacer(rows) {
    var line = document.createElement("tr"), cell = document.createElement("td");
    line.className = "spacer";
    line.setAttribute("aria-hidden", "true");
    cell.colSpan = names.length;
    cell.style.height = rows * height + "px";
    line.appendChild(cell);
    return line;
  }
  function paint() {
    var first = Math.max(0, Math.floor(box.scrollTop / height) - 10), last = Math.min(order.length, first + Math.ceil(box.clientHeight / height) + 20);
    if (drawn === first + " " + last) { return; }
    drawn = first + " " + last;
    var part = document.createDocumentFragment();
    if (first) { part.appendChild(spacer(first)); }
    for (var i = first; i < last; i++) {
      var line = document.createElement("tr");
      line.setAttribute("aria-rowindex", i + 2);
      names.forEach(function (name, k) {
        var value = columns[name][order[i]], cell = document.createElement(k ? "td" : "th");
        if (!k) { cell.scope = "row"; }
        cell.textContent = value === null ? "–" : typeof value === "number" && !Number.isInteger(value) ? Number(value.toPrecision(4)) : value;
        if (typeof value === "string") { cell.title = value; }
        line.appendChild(cell);
      });
      part.appendChild(line);
    }
    if (last < order.length) { part.appendChild(spacer(order.length - last)); }
    body.replaceChildren(part);
  }
  box.addEventListener("scroll", paint, { passive: true });
  filter.addEventListener("input", arrange);
  function again() { drawn = ""; paint(); }
  window.addEventListener("resize", again);
  document.getElementById("inputs").addEventListener("toggle", again);
  arrange();
})();
