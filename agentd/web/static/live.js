// Keeps a page of agentd up to date: after an event the page is fetched again, and
// what differs is changed in place.  Without this file the page reloads itself (see base.html).

const unit = s => s < 60 ? [s, 's'] : s < 3600 ? [s / 60, 'min'] : s < 172800 ? [s / 3600, 'h'] : [s / 86400, 'd']
const live = document.getElementById('live')
let source, waiting, release, state = '', timer = 0, due = Infinity, busy = false, asked = 0

function tick() {
  for (const time of document.querySelectorAll('time:not([data-keep])')) {
    const [n, u] = unit(Math.max(0, (Date.now() - skew - Date.parse(time.dateTime)) / 1000))
    const text = `${Math.floor(n)} ${u}` + ('up' in time.dataset ? '' : ' ago')
    if (time.textContent !== text) time.textContent = text
  }
}

// A browser's clock may be wrong, so ages are computed with the daemon's clock.
const at = page => Date.parse(page.querySelector('footer time').dateTime)
let skew = Date.now() - at(document)

function say(tone, text) {
  live.className = tone
  document.body.classList.toggle('lost', tone === 'bad')
  if (live.textContent !== text) live.textContent = text
}

function morph(old, now) {
  for (const { name } of [...old.attributes]) if (name !== 'open' && name !== 'class' && !now.hasAttribute(name)) old.removeAttribute(name)
  for (const { name, value } of now.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value)
  const named = new Map([...old.children].filter(e => e.id).map(e => [e.id, e]))
  let place = old.firstChild
  for (const node of [...now.childNodes]) {
    const same = node.id ? named.get(node.id) : place && !place.id && place.nodeName === node.nodeName && place
    if (!same) {
      old.insertBefore(node, place)
      if (node.nodeName === 'LI') node.classList.add('fresh')
      continue
    }
    if (same === place) place = place.nextSibling
    else old.insertBefore(same, place)
    if (same.nodeType !== 1) { if (same.data !== node.data) same.data = node.data }
    else if (!same.isEqualNode(node)) morph(same, node)
  }
  while (place) { const next = place.nextSibling; place.remove(); place = next }
}

async function fetchPage() {
  busy = true; due = Infinity; asked = Date.now()
  try {
    const answer = await fetch(location.href, { headers: { accept: 'text/html' }, cache: 'no-cache', signal: AbortSignal.timeout(10000) })
    const page = new DOMParser().parseFromString(await answer.text(), 'text/html')
    if (!page.getElementById('hero')) throw new Error(`not a page: ${answer.status}`)
    for (const part of ['main', 'footer', '#me']) morph(document.querySelector(part), page.querySelector(part))
    document.title = page.title
    skew = Date.now() - at(page)
    tick()
    if (source?.readyState === 2) open()
    if (answer.status === 503) say('warn', 'the network cannot be read')
    else if (state !== 'lost') say('ok', 'live')
  } catch {
    say('bad', 'agentd does not answer; this is what was last known')
  }
  busy = false
}

// At most twice a second; for a heartbeat, every five seconds.
const soon = wait => { due = Math.min(due, Math.max(Date.now() + wait, asked + 500)) }

function react(kind) {
  state = kind
  if (kind === 'lost') { say('bad', 'connection lost; this is what was last known'); soon(3000) }
  else soon(kind === 'agent' ? 5000 : 0)
}

// One stream for all tabs of a browser, which allows six connections: the tab that holds the lock passes on what it
// receives.  Without locks (plain http to another machine) each visible tab has its own.
const tabs = new BroadcastChannel('agentd')
const tell = kind => { react(kind); tabs.postMessage(kind) }
tabs.onmessage = ({ data }) => {
  if (data !== 'ask') react(data)
  else if (source && state) tabs.postMessage(state)
}

function open() {
  source?.close()
  source = new EventSource('/events')
  for (const kind of ['snapshot', 'resumed', 'workflow', 'alert', 'agent']) source.addEventListener(kind, () => tell(kind))
  source.onerror = () => tell('lost')
}

function lead() {
  if (!navigator.locks) { open(); return }
  waiting = new AbortController()
  navigator.locks.request('agentd', { signal: waiting.signal }, () => new Promise(done => { release = done; open() })).catch(() => {})
  tabs.postMessage('ask')
}

// A hidden page has no stream, and asks for nothing.
function watch() {
  if (document.hidden) {
    clearInterval(timer); waiting?.abort(); source?.close(); source = undefined; release?.(); release = undefined
    return
  }
  lead()
  timer = setInterval(() => {
    tick()
    if (Date.now() - asked > 15000) soon(0)
    if (!busy && Date.now() >= due) fetchPage()
  }, 250)
}
document.addEventListener('visibilitychange', watch)
addEventListener('agentd-refresh', () => soon(0))
watch()
