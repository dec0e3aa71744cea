// The keyboard, the filter, the colours and the live changes of the dashboard.  Every page works without this file.

const by = (selector, within = document) => [...within.querySelectorAll(selector)]
const filter = () => document.querySelector('input[type=search]')
const places = () => by('main tbody td a, main li p > a:first-child, main li p > b > a').filter(link => link.offsetParent)
let after = ''

// The keys that open the pages after `g`, in their order.
const PAGES = 'ouawrltd'

function move(step) {
  const links = by('main tbody tr').length ? by('main tbody tr').map(row => row.querySelector('a')).filter(Boolean) : places()
  const at = links.indexOf(document.activeElement.closest?.('tr')?.querySelector('a') ?? document.activeElement)
  links[Math.min(links.length - 1, Math.max(0, at < 0 ? 0 : at + step))]?.focus()
}

function help() {
  const shown = document.querySelector('dialog')
  if (shown) { shown.close(); return }
  const dialog = document.createElement('dialog')
  dialog.setAttribute('aria-label', 'Keys')
  const list = document.createElement('dl')
  const keys = [['/', 'filter'], ['j k', 'next, previous'], ['Enter', 'open'], ['c', 'dark or light'], ['Esc', 'close, leave the filter'],
    ...by('#pages > a[href]').slice(0, PAGES.length).map((link, place) => [`g ${PAGES[place]}`, link.textContent])]
  for (const [key, text] of keys) {
    const [name, meaning, box] = ['dt', 'dd', 'kbd'].map(tag => document.createElement(tag))
    box.textContent = key; name.append(box); meaning.textContent = text
    list.append(name, meaning)
  }
  const form = document.createElement('form')
  form.method = 'dialog'
  const button = document.createElement('button')
  button.textContent = 'Close'
  form.append(button); dialog.append(list, form); document.body.append(dialog)
  dialog.addEventListener('close', () => dialog.remove())
  dialog.showModal()
}

function colours(next) {
  const root = document.documentElement
  if (next) {
    const dark = root.dataset.theme ? root.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches
    localStorage.setItem('theme', dark ? 'light' : 'dark')
  }
  const theme = localStorage.getItem('theme')
  if (theme) root.dataset.theme = theme
}

addEventListener('keydown', event => {
  const typing = event.target.matches('input:not([type=checkbox]), textarea, select')
  if (event.ctrlKey || event.metaKey || event.altKey) return
  if (event.key === 'Escape') { if (typing) event.target.blur(); after = ''; return }
  if (typing) return
  const page = after === 'g' && by('#pages > a')[PAGES.indexOf(event.key)]
  if (page) { page.click(); return }
  after = event.key
  if (event.key === '/') { event.preventDefault(); filter()?.focus(); filter()?.select() }
  else if (event.key === 'j') move(1)
  else if (event.key === 'k') move(-1)
  else if (event.key === '?') help()
  else if (event.key === 'c') colours(true)
})

// The address is the state: typing changes it, and the page is fetched again from it.
let typed
addEventListener('input', event => {
  if (event.target !== filter()) return
  clearTimeout(typed)
  typed = setTimeout(() => {
    const url = new URL(location)
    url.searchParams.set('q', event.target.value)
    url.searchParams.delete('offset')
    history.replaceState(null, '', url)
    dispatchEvent(new CustomEvent('agentd', { detail: { kind: state, wait: 0 } }))
  }, 200)
})

// A form that acts is sent once.
addEventListener('submit', event => {
  if (event.target.method !== 'post') return
  if (event.target.dataset.sent) event.preventDefault()
  event.target.dataset.sent = '1'
})
addEventListener('pageshow', () => by('form').forEach(form => delete form.dataset.sent))
colours(false)
document.querySelector('#pages [aria-current]')?.scrollIntoView({ block: 'nearest', inline: 'center' })

// One stream of changes for all tabs of a browser, which allows six connections: the tab that holds the lock passes on
// what it receives.  Without locks (plain http to another machine) each visible tab has its own.
const tabs = new BroadcastChannel('agentd')
let source, waiting, release, state = ''

function react(kind) {
  state = kind
  dispatchEvent(new CustomEvent('agentd', { detail: { kind, wait: kind === 'agent' ? 5000 : 0 } }))
}
const tell = kind => { react(kind); tabs.postMessage(kind) }
tabs.onmessage = ({ data }) => {
  if (data !== 'ask') react(data)
  else if (source && state) tabs.postMessage(state)
}

function open() {
  source = new EventSource('/events')
  for (const kind of ['snapshot', 'resumed', 'workflow', 'alert', 'agent']) source.addEventListener(kind, () => tell(kind))
  source.onerror = () => {
    tell('lost')
    // A browser gives up on a stream that is refused, but not on one that breaks.
    if (source.readyState === 2) setTimeout(() => { if (source?.readyState === 2) open() }, 3000)
  }
}

// A hidden page has no stream, and asks for nothing.
function watch() {
  if (document.hidden) {
    waiting?.abort(); source?.close(); source = undefined; release?.(); release = undefined
    return
  }
  tabs.postMessage('ask')
  if (!navigator.locks) { open(); return }
  waiting = new AbortController()
  navigator.locks.request('agentd', { signal: waiting.signal }, () => new Promise(done => { release = done; open() })).catch(() => {})
}
document.addEventListener('visibilitychange', watch)
if (document.querySelector('script[src*="live.js"]')) watch()
