/** The `network` of a guest's configuration: its keys, and the rules between them. */
import * as z from 'zod';
import { UserError } from '../base/errors.ts';
import { isGuestName } from '../base/ids.ts';
import {
  firstOf,
  formatIpAddress,
  formatIpPrefix,
  type IpPrefix,
  isUnicast,
  parseIpPrefix,
} from '../base/ip.ts';
import type { Bandwidth } from '../network/rules.ts';
import {
  boolean,
  choice,
  dropAbsent,
  integer,
  isAccepted,
  isHostname,
  NEED_HOSTNAME,
  NEED_MAP,
  parsed,
  size,
  text,
} from './config-kinds.ts';
import type { GuestNetwork, GuestNetworkPolicy, GuestQuota, NetworkMode } from './config-types.ts';

const NEED_RANGE = 'a network of at least 8 bits that a host can be in, for example 2001:db8:1::/64';
const RANGE_LENGTH_MIN = 8;
const NEED_ADDRESS = 'an address that a host can have, for example 10.0.0.5/24 or 2001:db8::5/64';
const NEED_PLAIN_ADDRESS = 'an address such as 10.0.0.1 or fd00::1';
const plainAddress = text(
  NEED_PLAIN_ADDRESS,
  (value) => !value.includes('/') && isAccepted(() => parseIpPrefix(value)),
).transform((value) => formatIpAddress(parseIpPrefix(value).bytes));
/** `MAXNS` of resolv.h: a C library asks no more. */
const MAX_DNS = 3;
const NEED_DNS = `a list of 1 to ${MAX_DNS} addresses`;
const NEED_DOMAIN = 'a domain such as example.org';
const NEED_INTERFACE = 'the name of an interface of the host';
const interfaceName = text(
  NEED_INTERFACE,
  (value) => /^[^/\s:]{1,15}$/.test(value) && value !== '.' && value !== '..',
);

const NEED_NETWORK = 'a network or an address such as 192.0.2.0/24 or 2001:db8::1';
const NEED_PORTS = 'a port or a range of ports such as 8000-8999';
const NEED_GROUP = 'a whole number from 0 to 63';

const NEED_PEER = 'the name of a guest';

const ports = parsed(
  z.union([z.int({ error: NEED_PORTS }), z.string()], { error: NEED_PORTS }),
  NEED_PORTS,
  parsePorts,
);

function parsePorts(range: string): readonly [from: number, to: number] {
  const [, first = '', last = first] = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(range) ?? [];
  const [from, to] = [Number(first), Number(last)];
  if (first !== '' && from > 0 && from <= to && to <= 65_535) return [from, to];
  throw new UserError('invalid-value', `cannot use ${JSON.stringify(range)} as ports; need ${NEED_PORTS}`);
}

const egressRule = z.strictObject(
  {
    action: choice(['allow', 'deny']),
    to: parsed(z.string({ error: NEED_NETWORK }), NEED_NETWORK, parseIpPrefix)
      .transform(formatIpPrefix)
      .optional()
      .meta({ description: 'default everywhere' }),
    protocol: choice(['tcp', 'udp', 'icmp', 'any']).optional(),
    ports: ports.optional().meta({ description: 'a port, or a range such as 8000-8999; default all' }),
  },
  { error: 'a mapping with action and perhaps to, protocol and ports' },
);

const policy = z.strictObject(
  {
    egress: z
      .array(egressRule, { error: 'a list of rules' })
      .optional()
      .meta({
        description: 'where the guest may connect and send to; the first rule that matches decides',
        example: [[{ action: 'allow', to: '192.0.2.0/24', protocol: 'tcp', ports: 443 }]],
      }),
    otherwise: choice(['allow', 'deny'])
      .optional()
      .meta({ description: 'what no rule of egress matches; default allow', example: ['deny'] }),
    metadata: choice(['allow', 'deny'])
      .optional()
      .meta({ description: 'the metadata addresses of clouds; default deny', example: ['allow'] }),
    peers: z
      .array(text(NEED_PEER, isGuestName), { error: 'a list of names of guests such as [db]' })
      .optional()
      .meta({ description: 'guests that may be reached and may reach this one' }),
    groups: z
      .array(integer(NEED_GROUP, 0, 63), { error: 'a list of numbers' })
      .optional()
      .meta({
        description: 'numbers, 0..63: guests that have one in common reach each other',
        example: [[1]],
      }),
    multicast: boolean
      .optional()
      .meta({ description: 'multicast and broadcasts; default false', example: [true] }),
    lowPorts: choice(['root', 'any'])
      .optional()
      .meta({ description: "who may use ports below 1024; default the guest's root", example: ['any'] }),
  },
  { error: NEED_MAP },
);

const bandwidth = z
  .strictObject(
    {
      send: size(1)
        .optional()
        .meta({ description: 'bytes per second the guest may send', example: ['10m'] }),
      receive: size(1)
        .optional()
        .meta({ description: 'bytes per second it may receive', example: ['10m'] }),
      burst: size(1)
        .optional()
        .meta({ description: 'bytes at once after a pause; default 256k', example: ['1m'] }),
    },
    { error: NEED_MAP },
  )
  .transform(
    ({ send, receive, burst }): Bandwidth => ({
      ...(send === undefined ? {} : { sendBytesPerSecond: send }),
      ...(receive === undefined ? {} : { receiveBytesPerSecond: receive }),
      ...(burst === undefined ? {} : { burstBytes: burst }),
    }),
  );

const NEED_QUOTA = 'a mapping with bytes and perhaps per, direction, above and slow';
const quota = z
  .strictObject(
    {
      bytes: size(1).meta({ description: 'IP packets with their headers', example: ['100g'] }),
      per: choice(['day', 'month']).default('month').meta({ description: "of the host's calendar" }),
      direction: choice(['both', 'send', 'receive'])
        .default('both')
        .meta({ description: 'what counts; what the guest sends to itself never does' }),
      above: choice(['deny', 'slow', 'tell']).default('deny').meta({
        description: 'what happens to what is above: dropped, held to slow, or told by an event alone',
      }),
      slow: size(1)
        .optional()
        .meta({ description: 'with above: slow, bytes per second in each direction', example: ['64k'] }),
    },
    { error: NEED_QUOTA },
  )
  .refine(({ above, slow }) => (above === 'slow') === (slow !== undefined), {
    error: 'slow, in bytes per second, with above: slow and with nothing else',
    path: ['slow'],
  })
  .transform(
    ({ slow, ...rest }): GuestQuota => ({
      ...rest,
      ...(slow === undefined ? {} : { slowBytesPerSecond: slow }),
    }),
  );

const keys = z.strictObject(
  {
    mode: choice(['isolated', 'private', 'none', 'host'])
      .optional()
      .meta({
        description:
          "isolated = its addresses on the host's network, private = a network stack of its own behind a veth, none = only a loopback of its own, host = the host's network " +
          'unfenced; default isolated with addresses or shareWith, else none',
        example: ['isolated'],
      }),
    addresses: z
      .array(
        parsed(z.string({ error: NEED_ADDRESS }), NEED_ADDRESS, parseIpPrefix)
          .refine(isUnicast, { error: NEED_ADDRESS })
          .transform(formatIpPrefix),
        { error: 'a list of addresses such as [10.0.0.5/24]' },
      )
      .default([])
      .meta({
        description: 'IPv4 and IPv6 addresses of the guest, with the length of the prefix of their network',
        example: [['10.0.0.5/24', '2001:db8::5/64']],
      }),
    ranges: z
      .array(
        parsed(z.string({ error: NEED_RANGE }), NEED_RANGE, parseIpPrefix)
          .refine(isRange, { error: NEED_RANGE })
          .transform(({ family, bytes, length }) =>
            formatIpPrefix({ family, bytes: firstOf(bytes, length), length }),
          ),
        { error: 'a list of networks such as [2001:db8:1::/64]' },
      )
      .optional()
      .meta({
        description:
          "mode isolated: networks all of whose addresses are the guest's too, beside those it has by name; the host has to have a local route to them",
        example: [['2001:db8:1::/64']],
      }),
    bridge: interfaceName.optional().meta({
      description:
        "mode private: bridge of the host that the guest's interface is put into; default: none, the host has a route",
    }),
    gateways: z.array(plainAddress, { error: 'a list of addresses such as [10.0.0.1]' }).optional().meta({
      description:
        'mode private: the way to everywhere else, one of each family; without a bridge the host gets these addresses',
    }),
    interface: interfaceName.optional().meta({
      description:
        'mode isolated: interface of the host that gets the addresses while the guest runs; default: none gets them',
      example: ['eth0'],
    }),
    shareWith: text('the name of a guest', isGuestName)
      .optional()
      .meta({ description: 'guest whose addresses and loopback this one has too, in place of its own' }),
    dns: z
      .array(plainAddress, { error: NEED_DNS })
      .min(1, { error: NEED_DNS })
      .max(MAX_DNS, { error: NEED_DNS })
      .optional()
      .meta({
        description: "servers that are asked for names; default those of the host's that the guest can reach",
        example: [['192.0.2.53', '2001:db8::53']],
      }),
    search: z
      .array(text(NEED_DOMAIN, isHostname), { error: 'a list of domains' })
      .optional()
      .meta({
        description: 'domains in which short names are looked for; default those of the host',
        example: [['example.org']],
      }),
    hosts: z
      .record(z.string().refine(isHostname, { error: NEED_HOSTNAME }), plainAddress, { error: NEED_MAP })
      .optional()
      .meta({
        description: 'further lines of /etc/hosts, addresses by name',
        example: [{ db: '192.0.2.7' }],
      }),
    policy: policy.optional().meta({ description: 'whom the guest may reach' }),
    bandwidth: bandwidth.optional().meta({ description: 'how fast the guest may be' }),
    quota: quota.optional().meta({ description: 'how much it may send and receive in a day or a month' }),
  },
  { error: NEED_MAP },
);

function isRange(range: IpPrefix): boolean {
  return range.length >= RANGE_LENGTH_MIN && isUnicast(range);
}

type Keys = z.output<typeof keys>;

/** In which modes a key means something. */
const MODES_OF: Readonly<Partial<Record<keyof GuestNetwork, readonly NetworkMode[]>>> = {
  addresses: ['isolated', 'private'],
  ranges: ['isolated'],
  interface: ['isolated'],
  bridge: ['private'],
  gateways: ['private'],
  shareWith: ['isolated'],
  policy: ['isolated'],
  bandwidth: ['isolated'],
  quota: ['isolated'],
  dns: ['isolated', 'private', 'host'],
  search: ['isolated', 'private', 'host'],
  hosts: ['isolated', 'private', 'host'],
};

function* gatewayIssues(
  { gateways = [], addresses }: Keys,
  gateway: string,
  index: number,
): Generator<readonly [key: readonly (string | number)[], need: string]> {
  const familyOf = (text: string): 4 | 6 => (text.includes(':') ? 6 : 4);
  if (gateways.findIndex((one) => familyOf(one) === familyOf(gateway)) < index)
    yield [['gateways', index], 'one gateway of each family'];
  const own = addresses.filter((one) => familyOf(one) === familyOf(gateway));
  if (own.length === 0) yield [['gateways', index], 'an address of its family in network.addresses'];
  else if (own.some((one) => one.split('/')[0] === gateway))
    yield [['gateways', index], "an address that is not the guest's own"];
}

/** Rules between keys: which does not go with others, and what there has to be. */
function* networkIssues(
  network: Keys,
): Generator<readonly [key: readonly (string | number)[], need: string]> {
  const { addresses, shareWith } = network;
  const mode = network.mode ?? 'isolated';
  for (const [key, modes] of Object.entries(MODES_OF)) {
    const value = network[key as keyof typeof MODES_OF];
    if (value === undefined || (key === 'addresses' && addresses.length === 0) || modes.includes(mode))
      continue;
    const without = network.mode === undefined ? 'without' : `with ${mode}`;
    yield [[key], `network.mode: ${modes.join(' or ')}, since ${without} it has no effect`];
  }
  for (const [index, gateway] of (network.gateways ?? []).entries())
    yield* gatewayIssues(network, gateway, index);
  if (shareWith !== undefined && addresses.length > 0)
    yield [['addresses'], 'no addresses of its own with network.shareWith'];
  if (network.ranges !== undefined && addresses.length === 0)
    yield [['ranges'], 'network.addresses beside it, of which the guest sends'];
  for (const key of ['policy', 'bandwidth', 'quota'] as const)
    if (shareWith !== undefined && network[key] !== undefined)
      yield [[key], `none with network.shareWith: that of guest "${shareWith}" holds`];
  const hosts = addresses.map((address) => address.split('/')[0]);
  for (const [index, host] of hosts.entries())
    if (hosts.indexOf(host) < index)
      yield [['addresses', index], 'an address that is not in the list before'];
}

function completeNetwork(network: Keys): GuestNetwork {
  const { mode, addresses, shareWith } = network;
  return {
    mode: mode ?? (addresses.length > 0 || shareWith !== undefined ? 'isolated' : 'none'),
    addresses,
    ...(network.ranges === undefined ? {} : { ranges: network.ranges }),
    ...(network.bridge === undefined ? {} : { bridge: network.bridge }),
    ...(network.gateways === undefined ? {} : { gateways: network.gateways }),
    ...(network.interface === undefined ? {} : { interface: network.interface }),
    ...(shareWith === undefined ? {} : { shareWith }),
    ...dropAbsent({ quota: network.quota, dns: network.dns, search: network.search, hosts: network.hosts }),
    ...(network.policy === undefined ? {} : { policy: withoutAbsent(network.policy) }),
    ...(network.bandwidth === undefined ? {} : { bandwidth: network.bandwidth }),
  };
}

/** Keys that were not given are undefined after parsing; in a configuration they are not there. */
function withoutAbsent(policy: NonNullable<Keys['policy']>): GuestNetworkPolicy {
  const egress = policy.egress?.map((rule) => dropAbsent(rule));
  return dropAbsent({ ...policy, egress });
}

/** The `network` of a configuration, as a guest has it. */
export const network: z.ZodType<GuestNetwork> = keys
  .superRefine((value, context) => {
    if (context.issues.length > 0) return; // not all of it is what it seems
    for (const [path, message] of networkIssues(value))
      context.addIssue({ code: 'custom', path: [...path], message });
  })
  .transform(completeNetwork);
