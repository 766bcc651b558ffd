/**
 * Addresses by which clouds tell machines their secrets: credentials above all. They are not public, so that no guest asks
 * for one by accident.
 */

/** An address as its words of 32 bits. */
type Words = readonly number[];

/** Asked for metadata alone. */
export const METADATA4: readonly number[] = [
  0xa9fea9fe, // 169.254.169.254: AWS, Azure, Google, OpenStack, Oracle, Hetzner, DigitalOcean and others
  0xa9feaa02, // 169.254.170.2: credentials of AWS ECS tasks
  0xa9feaa17, // 169.254.170.23: AWS EKS Pod Identity
  0xa9fe0017, // 169.254.0.23: Tencent
  0xa9fe2a2a, // 169.254.42.42: Scaleway
  0x646464c8, // 100.100.100.200: Alibaba
];

/** Of Azure's WireServer, 168.63.129.16, which also is the name server of its networks, at port 53. */
export const WIRE_SERVER = 0xa83f8110;

export const METADATA6: readonly Words[] = [
  [0xfd000ec2, 0, 0, 0x254], // fd00:ec2::254: AWS
  [0xfd000ec2, 0, 0, 0x23], // fd00:ec2::23: AWS EKS Pod Identity
  [0xfd2000ce, 0, 0, 0x254], // fd20:ce::254: Google
  [0xfd0000c1, 0, 0, 0xa9fea9fe], // fd00:c1::a9fe:a9fe: Oracle
  [0xfd000042, 0, 0, 0x42], // fd00:42::42: Scaleway
  [0xfe800000, 0, 0, 0xa9fea9fe], // fe80::a9fe:a9fe: OpenStack, on every interface
];

/** 64:ff9b::/96, by which a translator on the way may reach the same IPv4 addresses (RFC 6052). */
export const TRANSLATED: Words = [0x0064ff9b, 0, 0];
