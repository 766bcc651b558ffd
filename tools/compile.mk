# dist: the sources as vserverd runs them (bin/vserverd). The stamp is from before the compiler reads the first of them.
dist/.stamp: $(shell find src -type f) tsconfig.build.json tsconfig.json package-lock.json
	@mkdir -p dist && touch dist/.stamp.new
	node_modules/.bin/tsc -p tsconfig.build.json
	@mv dist/.stamp.new $@
