/* How long what people write may be. A field with a maxlength would cut what is pasted into it, and say nothing. */

/** Why a text is too long, in words; "" when it is not. Characters are counted as the service counts them. */
export function tooLong(what, text, limit) {
  const { length } = [...text];
  if (length <= limit) return "";
  return `${what} has ${length.toLocaleString()} characters; the limit is ${limit.toLocaleString()}. Shorten it.`;
}
