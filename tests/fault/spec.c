/* The bodies of create, clone and restore; the first byte chooses which. A body that is taken is taken whole. */
#include <stdlib.h>
#include <string.h>

#include "daemon/api/internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

void idem_named(const char *id, void *context)
{
	(void)id;
	(void)context;
}

static void check_whole(const json_t *body, const struct spec *spec)
{
	const struct {
		const char *field;
		const char *text;
		size_t count;
	} maps[] = {
		{ "env_vars", spec->domain.env_json, spec->domain.env_count },
		{ "metadata", spec->domain.metadata_json, spec->domain.metadata_count },
	};

	for (size_t i = 0; i < sizeof(maps) / sizeof(maps[0]); i++) {
		const json_t *map = json_object_get(body, maps[i].field);
		if (map && (!maps[i].text || maps[i].count != json_object_size(map)))
			abort();
	}
	const json_t *network = json_object_get(body, "network");
	if (network && (!spec->domain.network || !spec->domain.network_json ||
			spec->domain.network->allow_count != json_array_size(json_object_get(network, "allow"))))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct http_request request = { 0 };
	struct error err = { 0 };
	struct spec spec = { 0 };

	if (size < 1)
		return 0;
	request.json = json_loadb((const char *)data + 1, size - 1, JSON_REJECT_DUPLICATES, NULL);
	if (!json_is_object(request.json)) {
		json_decref(request.json);
		return 0;
	}
	int r = spec_parse(&request, (enum spec_kind)(data[0] % 3), &spec, &err);
	if (r == 0)
		check_whole(request.json, &spec);
	else if (err.code == 0)
		abort();
	spec_free(&spec);
	json_decref(request.json);
	return 0;
}
