package scenario

import (
	"maps"
	"slices"
	"strings"

	"kbuild-run/gen/smb2"
	"kbuild-run/tests/client"
)

// Persona is how a program watches a directory: what a client of a scenario puts
// on with connect -persona. Options of a line go before it.
type Persona struct {
	Who     string
	Source  string
	Unknown string // what of it is not known, and is chosen by us

	// How it opens the directory.
	Access        smb2.AccessMask
	Options       smb2.CreateOptions
	MaximalAccess bool // with an SMB2_CREATE_QUERY_MAXIMAL_ACCESS_REQUEST
	Compound      bool // CREATE and CHANGE_NOTIFY in one

	First client.Watch // its first request on a handle
	Again client.Watch // and every other
}

// win32 is how Win32's CreateFile opens a directory with FILE_LIST_DIRECTORY and
// FILE_FLAG_BACKUP_SEMANTICS.
const win32 = smb2.FILE_READ_DATA | smb2.FILE_READ_ATTRIBUTES | smb2.SYNCHRONIZE

// Filters of programs.
const (
	nameFilter     = smb2.FILE_NOTIFY_CHANGE_FILE_NAME | smb2.FILE_NOTIFY_CHANGE_DIR_NAME
	explorerFilter = smb2.FILE_NOTIFY_CHANGE_FILE_NAME | smb2.FILE_NOTIFY_CHANGE_ATTRIBUTES | smb2.FILE_NOTIFY_CHANGE_LAST_WRITE // 0x15
	dotnetFilter   = nameFilter | smb2.FILE_NOTIFY_CHANGE_LAST_WRITE                                                             // 0x13
	everyFilter    = smb2.CompletionFilter(0xfff)
	libuvFilter    = smb2.CompletionFilter(0x17f) // all but EA and streams
	macFilter      = smb2.CompletionFilter(0xd47)
)

// watching is a persona whose requests are all the same.
func watching(p Persona, filter smb2.CompletionFilter, tree bool, size uint32) *Persona {
	p.First = client.Watch{Filter: filter, Tree: tree, Size: size}
	p.Again = p.First
	return &p
}

var personas = map[string]*Persona{
	"explorer": watching(Persona{
		Who: "Windows Explorer, which enters a folder by one compound and leaves it by CANCEL and CLOSE", Source: "a public capture of Windows 11 against Samba",
		Access: client.AccessExplorer, MaximalAccess: true, Compound: true,
	}, explorerFilter, false, 2048),
	"directorychanges": watching(Persona{
		Who: "Win32's ReadDirectoryChangesW on a tree with the largest buffer it takes over the network", Source: "winbase documentation; filter and buffer are the caller's",
		Unknown: "CreateOptions on the wire",
		Access:  win32, Options: smb2.FILE_OPEN_FOR_BACKUP_INTENT,
	}, libuvFilter, true, 65536),
	"filesystemwatcher": watching(Persona{
		Who: ".NET's FileSystemWatcher with its defaults", Source: "dotnet/runtime FileSystemWatcher.Win32.cs",
		Unknown: "CreateOptions on the wire",
		Access:  win32, Options: smb2.FILE_OPEN_FOR_BACKUP_INTENT,
	}, dotnetFilter, false, 8192),
	"findfirst": {
		Who: "Win32's FindFirstChangeNotification: FindNextChangeNotification asks again with a filter that means nothing", Source: "ReactOS kernel32 cnotify.c",
		Unknown: "what Windows itself asks again with",
		Access:  smb2.FILE_READ_DATA | smb2.SYNCHRONIZE, Options: smb2.FILE_DIRECTORY_FILE | smb2.FILE_OPEN_FOR_BACKUP_INTENT,
		First: client.Watch{Filter: smb2.FILE_NOTIFY_CHANGE_FILE_NAME, Size: 32},
		Again: client.Watch{Filter: smb2.FILE_NOTIFY_CHANGE_SECURITY, Tree: true, Size: 32},
	},
	"wine": {
		Who: "Wine's FindFirstChangeNotification, which has no buffer", Source: "Wine kernelbase file.c",
		Access: smb2.FILE_READ_DATA | smb2.SYNCHRONIZE, Options: smb2.FILE_DIRECTORY_FILE | smb2.FILE_OPEN_FOR_BACKUP_INTENT,
		First: client.Watch{Filter: smb2.FILE_NOTIFY_CHANGE_FILE_NAME},
		Again: client.Watch{Filter: smb2.FILE_NOTIFY_CHANGE_SIZE},
	},
	"finder": watching(Persona{
		Who: "macOS, which watches every directory that Finder shows", Source: "apple smbfs smb_smb_2.c, smb2_smb_change_notify",
		Unknown: "DesiredAccess of the directory's open",
		Access:  smb2.FILE_READ_DATA | smb2.FILE_READ_ATTRIBUTES | smb2.SYNCHRONIZE,
	}, macFilter, false, 65536),
	"backupd": watching(Persona{
		Who: "macOS' backupd, which asks without a handle, FileId all ones, to watch the share (watch NAME -wrong handle)", Source: "a comment in ksmbd's smb2_notify of Linux 7.3",
		Unknown: "filter and buffer",
		Access:  smb2.FILE_READ_DATA | smb2.FILE_READ_ATTRIBUTES | smb2.SYNCHRONIZE,
	}, everyFilter, false, 65536),
	"library": watching(Persona{
		Who: "the watch of a media library as in foobar2000: ReadDirectoryChangesW on the tree of a share", Source: "ksmbd issue 225, cifsd issue 79",
		Unknown: "filter and buffer",
		Access:  win32, Options: smb2.FILE_OPEN_FOR_BACKUP_INTENT,
	}, dotnetFilter|smb2.FILE_NOTIFY_CHANGE_SIZE, true, 65536),
	"cifs": watching(Persona{
		Who: "Linux' cifs.ko by CIFS_IOC_NOTIFY_INFO: one answer, then it closes the directory", Source: "Linux fs/smb/client/smb2ops.c smb3_notify",
		Unknown: "the filter is the caller's",
		Access:  smb2.FILE_READ_DATA | smb2.FILE_READ_ATTRIBUTES,
	}, everyFilter, false, 65408),
	"smbclient": watching(Persona{
		Who: "Samba's smbclient, command notify", Source: "Samba source3/client/client.c, measured",
		Access: smb2.FILE_READ_DATA,
	}, everyFilter, true, 1000),
	"jcifs": watching(Persona{
		Who: "jcifs-ng's SmbFile.watch", Source: "jcifs-ng Configuration.java, SmbWatchHandleImpl.java",
		Unknown: "the filter is the caller's",
		Access:  smb2.FILE_READ_DATA | smb2.FILE_READ_ATTRIBUTES,
	}, nameFilter, true, 1024),
}

// Personas describes them for people.
func Personas() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(personas)) {
		p := personas[name]
		text := p.Who + ". " + inWordsWatch(p.First)
		if p.Again != p.First {
			text += "; then " + inWordsWatch(p.Again)
		}
		text += ". From " + p.Source + "."
		if p.Unknown != "" {
			text += " Not known: " + p.Unknown + "."
		}
		b.WriteString("    " + name + "\n" + fold(text, "        ", "        "))
	}
	return b.String()
}
