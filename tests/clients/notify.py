# SPDX-License-Identifier: Apache-2.0
# Watches a folder of a share and prints the records of the first answer.
import sys
from samba import credentials
from samba.samba3 import libsmb_samba_internal, param

host, share, folder, user, password = sys.argv[1:]
config = param.get_context()
config.load("/dev/null")
who = credentials.Credentials()
who.guess(config)
who.set_username(user)
who.set_password(password)
who.set_domain("")
conn = libsmb_samba_internal.Conn(host, share, config, creds=who)
FILE_LIST_DIRECTORY, FILE_SHARE_ALL, FILE_OPEN, FILE_DIRECTORY_FILE = 1, 7, 1, 1
fnum = conn.create(folder, DesiredAccess=FILE_LIST_DIRECTORY, ShareAccess=FILE_SHARE_ALL,
                   CreateDisposition=FILE_OPEN, CreateOptions=FILE_DIRECTORY_FILE)
names = 3  # FILE_NOTIFY_CHANGE_FILE_NAME, FILE_NOTIFY_CHANGE_DIR_NAME
for change in conn.notify(fnum, 4096, names, False).get_changes(wait=True):
    print(change["action"], change["name"], flush=True)
