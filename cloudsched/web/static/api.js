// The page of the API: reads the OpenAPI document and writes it out, without anything from elsewhere.
"use strict";
(() => {
const t = JSON.parse(document.getElementById("strings").textContent);
const main = document.getElementById("content");

function el(tag, facts, ...inside) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(facts || {})) made.setAttribute(name, value);
  for (const one of inside.flat()) if (one !== null && one !== undefined) made.append(one instanceof Node ? one : String(one));
  return made;
}

function schema(spec, node, depth = 0) {
  if (!node) return "";
  if (node.$ref) {
    const name = node.$ref.split("/").pop();
    const found = spec.components.schemas[name];
    return depth > 2 ? name : schema(spec, found, depth);
  }
  if (node.type === "array") return ["[", schema(spec, node.items, depth + 1), "]"];
  if (!node.properties) return [].concat(node.type || "any").join(" | ") + (node.enum ? `: ${node.enum.join(", ")}` : "");
  const list = el("dl");
  for (const [name, inner] of Object.entries(node.properties)) {
    const needed = (node.required || []).includes(name) ? " *" : "";
    list.append(el("dt", {}, name + needed), el("dd", {}, schema(spec, inner, depth + 1), inner.description ? `: ${inner.description}` : ""));
  }
  return list;
}

function operation(spec, path, method, one) {
  const inside = [el("p", {}, one.description || one.summary)];
  const query = (one.parameters || []).filter((p) => p.name);
  if (query.length) {
    inside.push(el("h3", {}, t.query));
    const list = el("dl");
    for (const p of query) list.append(el("dt", {}, `${p.name} (${p.in})`), el("dd", {}, schema(spec, p.schema), p.description ? `: ${p.description}` : ""));
    inside.push(list);
  }
  const body = one.requestBody && one.requestBody.content["application/json"];
  if (body) inside.push(el("h3", {}, t.body), schema(spec, body.schema));
  inside.push(el("h3", {}, t.answers));
  for (const [code, answer] of Object.entries(one.responses)) {
    const content = Object.values(answer.content || {})[0];
    inside.push(el("p", {}, el("strong", {}, code), ` ${answer.description || ""}`));
    if (content && Number(code) < 300) inside.push(schema(spec, content.schema));
  }
  return el("details", { id: one.operationId || "" }, el("summary", {}, el("code", {}, `${method.toUpperCase()} ${path}`),
    ` ${one.summary || ""} `, el("small", { class: "note" }, one["x-role"] ? `${t.role}: ${one["x-role"]}` : "")), inside);
}

async function draw() {
  const spec = await (await fetch("/api/v2/openapi.json")).json();
  main.append(el("p", { class: "note" }, spec.info.description));
  const groups = {};
  for (const [path, methods] of Object.entries(spec.paths)) {
    for (const [method, one] of Object.entries(methods)) {
      if (one.responses) (groups[(one.tags || ["other"])[0]] ||= []).push(operation(spec, path, method, one));
    }
  }
  for (const [name, found] of Object.entries(groups)) main.append(el("h2", {}, name), ...found);
}

draw().catch((error) => main.append(el("p", { class: "problem", role: "alert" }, error.message)));
})();
