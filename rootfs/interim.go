package rootfs

// Kernel stands for kconfigs.Kernel until that exists.
type Kernel struct {
	Base                                   string
	Fragments                              []string
	Compiler, Release, Key                 string
	Cached                                 bool
	Dir, BzImage, Vmlinux, Modules, Config string
}
