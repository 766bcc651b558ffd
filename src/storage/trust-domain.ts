/** The trust domain of guests that name none. */
export const DEFAULT_DOMAIN = 'default';

const DOMAIN = /^[a-z\d][a-z\d_.-]{0,62}$/;

/** Whether a text can be the name of a trust domain. */
export function isTrustDomain(text: string): boolean {
  return DOMAIN.test(text);
}
