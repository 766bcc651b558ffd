/** Names of images of guests begin so; those of templates with the kind of the template. */
const OF_GUESTS = 'image-';
const DIGITS = 32;

/** Returns the name of an image that is named by what it holds. */
export function guestImageName(imageHash: string): string {
  return `${OF_GUESTS}${imageHash.slice(0, DIGITS)}`;
}

/** Whether an image stays for guests to come, though nobody needs it now. */
export function isOfTemplate(image: string): boolean {
  return !image.startsWith(OF_GUESTS);
}
