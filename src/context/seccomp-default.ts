/**
 * The profile of a guest that names none: what ordinary servers need, and EPERM for the rest.
 *
 * Keyrings, bpf, io_uring, userfaultfd, kexec, perf events, handles and namespaces are not in it: kernel code that most
 * escapes needed and servers do without. The reasons stand beside the rules in `seccomp-default.json`. `CCAP_…` names
 * in there are context capabilities; to other readers of the format they are capabilities that nobody has.
 */
import { type SeccompProfile, toSeccompProfile } from '../spec/seccomp-profile.ts';
import profile from './seccomp-default.json' with { type: 'json' };

/** Reads the default profile, not yet resolved for a guest. */
export function defaultSeccompProfile(): SeccompProfile {
  return toSeccompProfile(profile);
}
