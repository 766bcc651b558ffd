/** Names of images of guests begin so, and of those made for one; those of templates with the kind of the template. */
const OF_GUESTS = 'image-';
const OF_OCI = 'oci-';
const DIGITS = 32;

/** Returns the name of an image that is named by what it holds. */
export function guestImageName(imageHash: string): string {
  return `${OF_GUESTS}${imageHash.slice(0, DIGITS)}`;
}

/** Whether an image stays for guests to come, though nobody needs it now. */
export function isOfTemplate(image: string): boolean {
  return !image.startsWith(OF_GUESTS) && !image.startsWith(OF_OCI);
}

/** Returns the name of what an OCI image becomes, given the sha256 of its manifest. */
export function ociImageName(manifestSha256: string): string {
  return `${OF_OCI}${manifestSha256.slice(0, DIGITS)}`;
}
