"use strict";
(function () {
  // Charts. Colours are names of CSS variables, so that light, dark and print need no second description.
  var light = window.matchMedia("(prefers-color-scheme: dark)");
  function variable(name) { return getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim(); }
  function resolve(value) {
    if (typeof value === "string") { return value[0] === "@" ? variable(value.slice(1)) : value.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;"); }
    if (Array.isArray(value)) { return value.map(resolve); }
    if (value && typeof value === "object") {
      var out = {};
      Object.keys(value).forEach(function (key) { out[key] = resolve(value[key]); });
      return out;
    }
    return value;
  }
  function axis(given) {
    var base = { automargin: true, gridcolor: variable("line"), zeroline: false, linecolor: variable("line"), exponentformat: "power", dtick: given.type === "log" ? 1 : undefined };
    Object.keys(given).forEach(function (key) { base[key] = given[key]; });
    if (typeof base.title === "string") { base.title = { text: base.title.replace(/\n/g, "<br>") }; }
    if (base.type !== "log") { delete base.dtick; }
    else { delete base.dtick; base.nticks = 6; base.minor = { showgrid: false }; }
    return base;
  }
  function draw() {
    document.querySelectorAll("script[data-figure]").forEach(function (holder) {
      var figure = resolve(JSON.parse(holder.textContent));
      var layout = figure.layout;
      layout.xaxis = axis(layout.xaxis || {});
      layout.yaxis = axis(layout.yaxis || {});
      layout.margin = Object.assign({ l: 56, r: 12, t: 8, b: 48 }, layout.margin || {});
      layout.showlegend = false;
      layout.paper_bgcolor = layout.plot_bgcolor = "rgba(0,0,0,0)";
      layout.font = { family: getComputedStyle(document.body).fontFamily, size: 13, color: variable("ink") };
      layout.hovermode = "closest";
      figure.traces.forEach(function (t) { t.type = t.type || "scatter"; t.name = ""; });
      window.Plotly.react(holder.dataset.figure, figure.traces, layout, { displayModeBar: false, responsive: true, doubleClick: false });
    });
  }
  if (window.Plotly) {
    draw();
    light.addEventListener("change", draw);
    window.matchMedia("print").addEventListener("change", function () { draw(); });
    window.addEventListener("beforeprint", draw);
    window.addEventListener("afterprint", draw);
  }

  // The table of all inputs: only the visible rows exist.
  var source = document.getElementById("table-data");
  if (!source) { return; }
  var columns = JSON.parse(source.textContent), names = Object.keys(columns), total = columns.index.length;
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
  window.addEventListener("resize", function () { drawn = ""; paint(); });
  arrange();
})();
