# SPDX-License-Identifier: Apache-2.0
# Nothing here links C: without cgo the programs are the same on every host.
export CGO_ENABLED = 0
# The commit goes into the program where git lets us read it: not from a clone
# of somebody else's, say. Nothing else needs it.
export GOFLAGS += -buildvcs=false
VCS = $(if $(shell git rev-parse HEAD 2>/dev/null),true,false)
# Go checks the servers of its modules with these.
CERTS = $(firstword $(wildcard /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /var/lib/ca-certificates/ca-bundle.pem) ca-certificates)

.PHONY: help run test bench setup doctor vet gen kbuild-run ca-certificates

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

run: setup ## set up the host, then the main job: what a client sees before and after the series
	./kbuild-run --series notify

test: kbuild-run ## set up the host, with Samba where that starts no server, then the main job and every test
	./kbuild-run setup --with smbclient,python3-samba,smbd,streams_xattr,tshark,smbtorture,sparse,codespell
	./kbuild-run --series notify
	go run ./tests/sum ./...

bench: kbuild-run ## set up the host, then measure what the series costs: out/*-bench/bench.md
	./kbuild-run setup --with mkfs.xfs,udevd,python3,smbd
	./kbuild-run bench

setup: kbuild-run ## install what the host lacks
	./kbuild-run setup

doctor: kbuild-run ## say what the host has and lacks
	./kbuild-run doctor

vet: ## go vet
	go vet ./...

gen: kbuild-run ## write what comes out of the protocol tables
	./kbuild-run gen

kbuild-run: $(filter ca-certificates,$(CERTS)) ## build the program
	go build -buildvcs=$(VCS) -o $@ .

ca-certificates:
	apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends ca-certificates
