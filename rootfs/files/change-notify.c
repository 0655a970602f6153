// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Stands between ksmbd.mountd and libnl, and adds to what mountd tells the kernel
 * of a share the flags of "change notify" in ksmbd.conf. A ksmbd-tools that knows
 * the parameter sets the same ones; Debian's do not know it. A kernel that does not
 * know the flags ignores them.
 *
 * Built without a C library, so that it fits the one of the guest.
 */
#include <fcntl.h>
#include <stddef.h>
#include <strings.h>
#include <unistd.h>

struct nl_msg;
struct nlattr;
struct nlattr *nla_reserve(struct nl_msg *msg, int type, int len);
void *nla_data(const struct nlattr *attr);

#define NLE_NOMEM 5 /* netlink/errno.h */

/* fs/smb/server/ksmbd_netlink.h, as far as it matters here. */
#define KSMBD_EVENT_SHARE_CONFIG_RESPONSE 7
#define KSMBD_SHARE_FLAG_NOTIFY_OFF (1u << 21)
#define KSMBD_SHARE_FLAG_NOTIFY_PENDING (1u << 22)

struct ksmbd_share_config_response {
	unsigned int handle;
	unsigned int flags;
	unsigned short modes_and_ids[6];
	char share_name[64];
	unsigned int reserved[111];
	unsigned int payload_sz;
	unsigned int veto_list_sz;
};

_Static_assert(offsetof(struct ksmbd_share_config_response, share_name) == 20, "share_name");
_Static_assert(sizeof(struct ksmbd_share_config_response) == 536, "size");

/* trim cuts the white space off both ends of s. */
static char *trim(char *s)
{
	char *end, *p;

	while (*s == ' ' || *s == '\t')
		s++;
	for (p = end = s; *p; p++)
		if (*p != ' ' && *p != '\t')
			end = p + 1;
	*end = 0;
	return s;
}

/* line reads one line of ksmbd.conf(5); in says whether it belongs to the share. */
static void line(char *s, const char *share, int *in, unsigned int *flags)
{
	char *p, *value = NULL;

	s = trim(s);
	if (*s == '[') {
		for (p = s; *p && *p != ']'; p++)
			;
		*p = 0;
		*in = !strcasecmp(trim(s + 1), share);
		return;
	}
	for (p = s; *p && !value; p++)
		if (*p == '=') {
			*p = 0;
			value = trim(p + 1);
		}
	if (!*in || !value || strcasecmp(trim(s), "change notify"))
		return;
	if (!strcasecmp(value, "pending"))
		*flags = KSMBD_SHARE_FLAG_NOTIFY_PENDING;
	else if (!strcasecmp(value, "off") || !strcasecmp(value, "no"))
		*flags = KSMBD_SHARE_FLAG_NOTIFY_OFF;
	else
		*flags = 0;
}

static unsigned int flags_of(const char *share)
{
	char text[16 << 10], *p, *start = text; /* mountd has threads */
	unsigned int flags = 0;
	int in = 0, fd = open("/etc/ksmbd/ksmbd.conf", O_RDONLY);
	ssize_t len;

	if (fd < 0)
		return 0;
	len = read(fd, text, sizeof(text));
	close(fd);
	for (p = text; p < text + len; p++) {
		if (*p != '\n')
			continue;
		*p = 0;
		line(start, share, &in, &flags);
		start = p + 1;
	}
	return flags;
}

/* nla_put is libnl's. */
int nla_put(struct nl_msg *msg, int type, int len, const void *data)
{
	struct nlattr *attr = nla_reserve(msg, type, len);
	struct ksmbd_share_config_response *share;
	char *to;
	int i;

	if (!attr)
		return -NLE_NOMEM;
	to = nla_data(attr);
	for (i = 0; i < len; i++)
		to[i] = ((const char *)data)[i];
	share = (void *)to;
	if (type == KSMBD_EVENT_SHARE_CONFIG_RESPONSE && len >= (int)sizeof(*share))
		share->flags |= flags_of(share->share_name);
	return 0;
}
