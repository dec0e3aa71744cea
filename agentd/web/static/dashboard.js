// The keyboard, the filter and the colours of the dashboard.  Every page works without this file.

const by = (selector, within = document) => [...within.querySelectorAll(selector)]
const filter = () => document.querySelector('input[type=search]')
const places = () => by('main tbody td a, main li p > a:first-child, main li p > b > a').filter(link => link.offsetParent)
let after = ''

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
    ...by('#pages a[data-key]').map(link => [`g ${link.dataset.key}`, link.textContent])]
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
  const page = after === 'g' && document.querySelector(`#pages a[data-key="${CSS.escape(event.key)}"]`)
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
    dispatchEvent(new Event('agentd-refresh'))
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
