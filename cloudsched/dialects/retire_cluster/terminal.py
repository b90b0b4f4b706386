"""What is at `/cli`? A terminal as one page, which sends what is typed to the command endpoint (contract 9.9)."""

from __future__ import annotations

import base64
import hashlib

from cloudsched.dialects.retire_cluster.routing import Answer, Call

_STYLE = """
body{margin:0;background:#111;color:#ddd;font:14px/1.4 monospace;display:flex;flex-direction:column;height:100vh}
#out{flex:1;overflow:auto;padding:1em;white-space:pre-wrap}
form{display:flex;gap:.5em;padding:.5em 1em;border-top:1px solid #444}
input{background:#222;color:#eee;border:1px solid #555;font:inherit;padding:.3em}
#line{flex:1}
.bad{color:#f88}
"""
_SCRIPT = """
const out = document.getElementById('out'), line = document.getElementById('line'), key = document.getElementById('key');
const past = []; let at = 0;
function say(text, bad) {
  const row = document.createElement('div');
  row.textContent = text; if (bad) row.className = 'bad';
  out.append(row); out.scrollTop = out.scrollHeight;
}
document.querySelector('form').addEventListener('submit', async event => {
  event.preventDefault();
  const command = line.value.trim(); line.value = '';
  if (!command) return;
  past.push(command); at = past.length;
  if (command === 'clear') { out.replaceChildren(); return; }
  say('> ' + command);
  const headers = {'Content-Type': 'application/json'};
  if (key.value) headers['X-API-Key'] = key.value;
  try {
    const answer = await fetch('/api/v1/command', {method: 'POST', headers, body: JSON.stringify({command, format: 'text'})});
    const said = await answer.json();
    if (said.status !== 'success') say(said.error_code + ': ' + said.message, true);
    else say(typeof said.output === 'string' ? said.output : JSON.stringify(said.output, null, 1));
  } catch (error) { say(String(error), true); }
});
line.addEventListener('keydown', event => {
  if (event.key !== 'ArrowUp' && event.key !== 'ArrowDown') return;
  at = Math.max(0, Math.min(past.length, at + (event.key === 'ArrowUp' ? -1 : 1)));
  line.value = past[at] || ''; event.preventDefault();
});
line.focus();
"""


def _sum(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


PAGE = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Retire-Cluster</title><style>{_STYLE}</style></head>
<body><main id="out" role="log" aria-live="polite">Type help.</main>
<form><label for="line">&gt;</label><input id="line" autocomplete="off" spellcheck="false" aria-label="command">
<input id="key" type="password" autocomplete="off" placeholder="API key" aria-label="API key"></form>
<script>{_SCRIPT}</script></body></html>
""".encode()
_POLICY = (f"default-src 'none'; script-src {_sum(_SCRIPT)}; style-src {_sum(_STYLE)}; connect-src 'self'; base-uri 'none'; "
           "form-action 'none'; frame-ancestors 'none'")


def page(_: Call) -> Answer:
    """A terminal for people."""
    return Answer(body=[PAGE], headers=[("Content-Type", "text/html; charset=utf-8"), ("Content-Security-Policy", _POLICY)])
