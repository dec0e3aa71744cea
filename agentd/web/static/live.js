// Keeps a page of agentd up to date: the page is fetched again, after a change (dashboard.js) or some seconds, and
// what differs is changed in place.  A page may have its own pace (`data-every`, milliseconds; 0: it stays as it is).
// Without this file the page reloads itself (see base.html).

const unit = s => s < 60 ? [s, 's'] : s < 3600 ? [s / 60, 'min'] : s < 172800 ? [s / 3600, 'h'] : [s / 86400, 'd']
const live = document.getElementById('live')
let every = 5000, due = 0, busy = false, asked = Date.now(), lost = false

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

async function refresh() {
  busy = true; due = Infinity; asked = Date.now()
  const { href } = location
  try {
    const answer = await fetch(href, { headers: { accept: 'text/html' }, cache: 'no-cache', signal: AbortSignal.timeout(10000) })
    const page = new DOMParser().parseFromString(await answer.text(), 'text/html')
    if (!page.getElementById('hero')) throw 0
    if (href === location.href) {
      for (const part of ['main', 'footer', '#me']) morph(document.querySelector(part), page.querySelector(part))
      document.title = page.title
      skew = Date.now() - at(page)
      tick()
    }
    if (answer.status === 503) say('warn', 'the network cannot be read')
    else if (!lost) say('ok', 'live')
  } catch {
    say('bad', 'agentd does not answer; this is what was last known')
  }
  busy = false
}

// At most twice a second.
addEventListener('agentd', ({ detail: { kind, wait } }) => {
  lost = kind === 'lost'
  every = lost ? 3000 : 15000
  if (lost) say('bad', 'connection lost; this is what was last known')
  due = Math.min(due, Math.max(Date.now() + wait, asked + 500))
})
setInterval(() => {
  if (document.hidden) return
  tick()
  const own = document.getElementById('hero').dataset.every
  if (own !== '0' && !busy && Date.now() >= Math.min(due, asked + (Number(own) || every))) refresh()
}, 250)
