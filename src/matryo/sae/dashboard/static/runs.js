// Draws the curves of a running training again, as long as its page is open.
export function start(mark) {
  const again = async () => {
    if (!mark.isConnected) return;
    try {
      const page = new DOMParser().parseFromString(await (await fetch(location.href)).text(), 'text/html');
      if (!mark.isConnected) return;
      document.getElementById('curves').replaceWith(page.getElementById('curves'));
    } catch { /* the server was stopped: the last curves stay */ }
    setTimeout(again, 5000);
  };
  setTimeout(again, 5000);
}
