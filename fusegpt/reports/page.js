// Charts take their colours from the style sheet, so that a change of theme redraws nothing.
const text = { labelColor: "var(--soft)", titleColor: "var(--ink)", labelFontSize: 12, titleFontSize: 12, titleFontWeight: 500 };
const line = { gridColor: "var(--line)", domainColor: "var(--line)", tickColor: "var(--line)" };
const config = {
  background: "transparent", font: "system-ui, DejaVu Sans, sans-serif",
  view: { stroke: null }, legend: text, axis: { ...text, ...line },
};

const isHidden = place => place.closest("details:not([open])") !== null;
const undrawn = place => !place.firstChild;

function draw(place) {
  return vegaEmbed(place, charts[place.id], { actions: false, renderer: "svg", config });
}

function drawVisible(root) {
  const places = [...root.querySelectorAll(".vega")].filter(place => undrawn(place) && !isHidden(place));
  return Promise.all(places.map(draw));
}

function openAll() {
  document.documentElement.classList.remove("dark");
  document.querySelectorAll("details").forEach(box => { box.open = true; });
  drawVisible(document);
}

// Theme: what the system says, until the button says otherwise.
const system = matchMedia("(prefers-color-scheme: dark)");
let chosen = null;
function paint() {
  const dark = chosen === null ? system.matches : chosen === "dark";
  document.documentElement.classList.toggle("dark", dark);
  document.getElementById("theme").textContent = dark ? "light" : "dark";
}
document.getElementById("theme").addEventListener("click", () => {
  chosen = document.documentElement.classList.contains("dark") ? "light" : "dark";
  paint();
});
system.addEventListener("change", paint);
paint();

document.querySelectorAll("details").forEach(box => box.addEventListener("toggle", () => {
  if (!box.open) return;
  drawVisible(box);
  box.querySelectorAll("table.grid").forEach(enhance);
}));
addEventListener("beforeprint", openAll);
addEventListener("afterprint", paint);
const drawn = drawVisible(document);

// Tables are plain HTML until the library has loaded, and stay so where it does not.
let DataTable = null;
const PAGE = 50;

function enhance(table) {
  if (DataTable === null || table.dataset.ready || isHidden(table)) return;
  table.dataset.ready = "1";
  const heads = [...table.tHead.rows[0].cells];
  const choose = heads.flatMap((head, place) => head.dataset.choose === undefined ? [] : [place]);
  const hidden = heads.flatMap((head, place) => head.dataset.hidden === undefined ? [] : [place]);
  const long = table.tBodies[0].rows.length > PAGE;
  const exported = { columns: ":visible", orthogonal: "sort" };
  const buttons = [{ extend: "csv", text: "CSV", filename: table.dataset.name, exportOptions: exported, titleAttr: "download the rows shown, with all digits" }];
  if (heads.length > 5) buttons.push({ extend: "colvis", text: "columns", align: "button-right" });
  const filter = { extend: "dropdown", icon: "search", text: "filter by value", content: [{ extend: "searchList", title: "" }] };
  new DataTable(table, {
    paging: long, pageLength: PAGE, order: [], autoWidth: false,
    layout: { topStart: "search", topEnd: { buttons }, bottomStart: long ? "info" : null, bottomEnd: long ? "paging" : null },
    columnDefs: [
      { targets: hidden, visible: false },
      { targets: choose, columnControl: [filter] },
    ],
    ordering: { indicators: true, handler: true },
    language: { search: "", searchPlaceholder: "filter rows", emptyTable: "nothing here", zeroRecords: "no row matches" },
  });
  scrollInside(table.closest(".scroll"));
}

// Menus hang over the table's edge, so from here on the table scrolls alone.
function scrollInside(whole) {
  const part = whole.querySelector(".dt-layout-table .dt-layout-cell");
  for (const name of ["tabindex", "role", "aria-label"]) {
    part.setAttribute(name, whole.getAttribute(name));
    whole.removeAttribute(name);
  }
  part.classList.add("scroll");
  whole.classList.remove("scroll");
  whole.querySelector("input[type=search]").setAttribute("aria-label", "filter rows");
}

async function loadTables() {
  const module = new Blob([tableLibrary], { type: "text/javascript" });
  const address = URL.createObjectURL(module);
  DataTable = (await import(address)).default;
  URL.revokeObjectURL(address);
  document.querySelectorAll("table.grid").forEach(enhance);
}
Promise.all([drawn, loadTables()]).then(() => { document.documentElement.dataset.ready = "1"; });
