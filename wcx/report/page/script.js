"use strict";
// Sorting, filtering, and switching contrasts; without it the page holds the same, all of it shown.
{
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const make = (name, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(name), properties);
    element.append(...children);
    return element;
  };

  // Sorting: a button in every column's head; first up, then down.
  const compare = (a, b) => (Number.isNaN(a) ? 1 : Number.isNaN(b) ? -1 : a < b ? -1 : a > b ? 1 : 0);
  const key = (row, column) => {
    const cell = row.cells[column];
    if (!("value" in cell.dataset)) return cell.textContent.trim().toLowerCase();
    return cell.dataset.value === "" ? NaN : Number(cell.dataset.value);
  };
  for (const head of all("table.data th[data-sort]")) {
    const button = make("button", { type: "button", title: "Sort" }, ...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      const body = head.closest("table").tBodies[0];
      const keyed = [...body.rows].map((row) => [key(row, head.cellIndex), row]);
      const lacks = ([value]) => Number.isNaN(value);
      keyed.sort(([a], [b]) => (down ? compare(b, a) : compare(a, b)));
      body.append(...keyed.filter((one) => !lacks(one)).map(([, row]) => row), ...keyed.filter(lacks).map(([, row]) => row));
      all("th[aria-sort]", head.parentElement).forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
    });
  }

  // Filtering: what names its dataset and method is shown or not; what names none stays.
  const bar = document.getElementById("filters");
  const subjects = all("[data-dataset], [data-method]");
  const values = (element, kind) => {
    const value = element.dataset[kind];
    return value === undefined ? [] : kind === "method" ? value.split(" ") : [value];
  };
  const selects = ["dataset", "method"].map((kind) => {
    const names = [...new Set(subjects.flatMap((element) => values(element, kind)))].sort();
    const select = make("select", { id: `filter-${kind}` }, make("option", { value: "", textContent: "all" }));
    select.append(...names.map((name) => make("option", { value: name, textContent: name })));
    if (names.length > 1) bar.append(make("label", {}, `${kind} `, select));
    return [kind, select];
  });
  const told = make("output", { htmlFor: "filter-dataset filter-method" });
  const filter = () => {
    for (const element of subjects) {
      element.hidden = selects.some(([kind, select]) => {
        const own = values(element, kind);
        return select.value !== "" && own.length > 0 && !own.includes(select.value);
      });
    }
    const shown = subjects.filter((element) => !element.hidden).length;
    told.textContent = shown === subjects.length ? "" : `${shown} of ${subjects.length} rows and figures`;
  };
  bar.addEventListener("change", filter);
  bar.append(told);
  bar.hidden = bar.querySelector("select") === null;

  // Switching: one heatmap at a time, over the same image; the pointer's place across the image chooses, or a tap.
  all(".switch").forEach((whole, i) => {
    const contrasts = [...new Set(all("figure[data-contrast]", whole).map((figure) => figure.dataset.contrast))];
    if (contrasts.length < 2) return;
    const show = (root, contrast) => {
      for (const figure of all("figure[data-contrast]", root)) {
        figure.classList.toggle("on", figure.dataset.contrast === contrast);
      }
    };
    const chosen = () => whole.querySelector("input:checked").value;
    const label = (value, text, checked) => {
      const input = make("input", { type: "radio", name: `contrast-${i}`, value, checked });
      return make("label", {}, input, text);
    };
    const first = contrasts.includes("weighted") ? "weighted" : contrasts[0];
    const buttons = contrasts.map((name) => label(name, name, name === first));
    const legend = make("legend", { textContent: "Contrast" });
    const choice = make("fieldset", { className: "choice" }, legend, ...buttons, label("", "side by side", false));
    const update = () => {
      whole.classList.toggle("one", chosen() !== "");
      show(whole, chosen());
    };
    choice.addEventListener("change", update);
    whole.querySelector(".cards").before(choice);
    const hint = "Move the pointer across a heatmap, or tap it, to go from contrast to contrast over the same image.";
    choice.after(make("p", { className: "note hint", textContent: hint }));
    for (const strip of all(".frames", whole)) {
      const own = all("figure[data-contrast]", strip).map((figure) => figure.dataset.contrast);
      strip.addEventListener("pointermove", (event) => {
        if (event.pointerType !== "mouse" || chosen() === "") return;
        const image = strip.querySelector("figure.on img") || strip;
        const box = image.getBoundingClientRect();
        const place = Math.floor(((event.clientX - box.left) / box.width) * own.length);
        show(strip, own[Math.min(Math.max(place, 0), own.length - 1)]);
      });
      strip.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && show(strip, chosen()));
      strip.addEventListener("pointerup", (event) => {
        if (event.pointerType === "mouse" || chosen() === "") return;
        const now = strip.querySelector("figure.on").dataset.contrast;
        show(strip, own[(own.indexOf(now) + 1) % own.length]);
      });
    }
    update();
  });
}
