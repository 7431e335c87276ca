"use strict";
// Filters and opens; everything it works on stands in the page already.
(() => {
  const form = document.querySelector(".controls");
  const shown = document.getElementById("shown");
  const rows = [...document.querySelectorAll("details.row")].map((element) => ({
    element,
    text: element.textContent.toLowerCase(),
    statuses: element.dataset.statuses.split(" ").filter(Boolean).map((one) => one.split("=")),
  }));
  const field = Object.fromEntries(
    [...form.querySelectorAll("[data-filter]")].map((input) => [input.dataset.filter, input]),
  );

  const fits = (row, wanted) =>
    (!wanted.group || row.element.dataset.group === wanted.group) &&
    (!wanted.kind || row.element.dataset.kind === wanted.kind) &&
    (!wanted.core || "core" in row.element.dataset) &&
    (!(wanted.status || wanted.runner) ||
      row.statuses.some(
        ([runner, status]) =>
          (!wanted.runner || runner === wanted.runner) && (!wanted.status || status === wanted.status),
      )) &&
    wanted.words.every((word) => row.text.includes(word));

  const filter = () => {
    const wanted = {
      words: field.search.value.toLowerCase().split(/\s+/).filter(Boolean),
      status: field.status.value,
      runner: field.runner.value,
      group: field.group.value,
      kind: field.kind.value,
      core: field.core.checked,
    };
    let count = 0;
    for (const row of rows) {
      const fit = fits(row, wanted);
      row.element.hidden = !fit;
      count += fit;
    }
    shown.textContent =
      count === rows.length ? `${count} rows` : `${count} of ${rows.length} rows`;
  };

  // A link may lead into something that is closed or filtered away.
  const reveal = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    if (target.hidden) {
      form.reset();
      filter();
    }
    const closed = target.closest("details");
    if (closed) closed.open = true;
    target.scrollIntoView({ block: target.tagName === "SECTION" ? "start" : "center" });
  };

  form.hidden = false;
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(filter));
  for (const link of document.querySelectorAll("[data-set-status], [data-set-group]")) {
    link.addEventListener("click", () => {
      form.reset();
      field.status.value = link.dataset.setStatus ?? "";
      field.group.value = link.dataset.setGroup ?? "";
      setTimeout(filter);
    });
  }
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !/^(INPUT|SELECT)$/.test(document.activeElement.tagName)) {
      event.preventDefault();
      field.search.focus();
    }
  });
  addEventListener("beforeprint", () => {
    for (const row of rows) if (row.statuses.some(([, status]) => status === "FAIL")) row.element.open = true;
  });
  addEventListener("hashchange", reveal);
  const wanted = new URLSearchParams(location.search).get("search");
  if (wanted) field.search.value = wanted;
  filter();
  reveal();
  document.documentElement.dataset.ready = String(rows.length);
})();
