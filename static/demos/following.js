/* A scrolling list that stays at its end while things are added, unless its reader has scrolled up. */

const NEAR_PIXELS = 40;

/** Change `list` by `change`, and stay at the end if that is where the reader was. */
export function following(list, change) {
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight <= NEAR_PIXELS;
  change();
  if (atEnd) list.scrollTop = list.scrollHeight;
}
