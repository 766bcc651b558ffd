# dist: the sources as vserverd runs them (bin/vserverd), in few files with what they need of packages and no more. Pieces
# of an earlier build stay: a vserverd that runs may yet load them. The stamp is from before the first source is read.
ENTRIES = src/daemon/main.ts src/storage/helper/main.ts
# Without --keep-names: each function would be given its name by Object.defineProperty when it is made, and has it anyway.
# Packages that are CommonJS ask for Node's own modules.
BANNER = import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);

dist/.stamp: $(shell find src -type f) tools/compile.mk package-lock.json
	@mkdir -p dist && touch dist/.stamp.new
	node_modules/.bin/esbuild $(ENTRIES) --bundle --splitting --outdir=dist --outbase=src --chunk-names=chunks/[hash] \
		--format=esm --platform=node --target=node24 --minify-syntax --minify-whitespace --line-limit=160 --legal-comments=none \
		--banner:js="$(BANNER)" --log-level=warning
	@mv dist/.stamp.new $@
