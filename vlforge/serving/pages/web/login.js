// Asks for a name and a password; the server gives a cookie that scripts cannot read.
"use strict";

const $ = (id) => document.getElementById(id);

function fault(words) {
  $("fault").textContent = words;
  $("fault").hidden = false;
}

$("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  $("fault").hidden = true;
  const body = JSON.stringify({ user: $("user").value, password: $("password").value });
  try {
    const answer = await fetch("api/login", { method: "POST", headers: { "Content-Type": "application/json" }, body });
    if (answer.ok) location.replace("./");
    else fault((await answer.json().catch(() => ({}))).detail || answer.statusText);
  } catch {
    fault("The server does not answer.");
  }
  $("password").value = "";
});
$("user").focus();
