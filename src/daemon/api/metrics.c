/* What Prometheus reads. Counters are atomic: a request never waits for a reader. */
#include "daemon/api/internal.h"

#include <assert.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include "daemon/store/audit_copy.h"

#define ROUTES_MAX 64
#define STATUSES_MAX 20

static const int statuses[] = { 200, 201, 204, 400, 401, 403, 404, 405, 409, 413,
				415, 422, 429, 431, 499, 500, 503, 504, 507 };
#define STATUSES (sizeof(statuses) / sizeof(statuses[0]))
static_assert(STATUSES < STATUSES_MAX, "one place is for all others");

/* Upper bounds, microseconds; +Inf follows. */
static const int64_t bounds[] = { 1000,   5000,   10000,   25000,   50000,    100000,
				  250000, 500000, 1000000, 2500000, 10000000, 60000000 };
#define BOUNDS (sizeof(bounds) / sizeof(bounds[0]))

struct histogram {
	_Atomic(uint64_t) buckets[BOUNDS + 1];
	_Atomic(uint64_t) sum_us;
};

struct metrics {
	_Atomic(uint64_t) requests[ROUTES_MAX + 1][STATUSES_MAX]; /* the last route: none */
	struct histogram latency[ROUTES_MAX + 1];
	struct histogram timers[METRICS_TIMERS];
	_Atomic(uint64_t) audit_failures;
};

struct metrics *metrics_new(void)
{
	return calloc(1, sizeof(struct metrics));
}

void metrics_free(struct metrics *metrics)
{
	free(metrics);
}

static void observe(struct histogram *histogram, int64_t us)
{
	size_t i = 0;
	while (i < BOUNDS && us > bounds[i])
		i++;
	atomic_fetch_add_explicit(&histogram->buckets[i], 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&histogram->sum_us, us > 0 ? (uint64_t)us : 0, memory_order_relaxed);
}

static size_t route_index(const struct http_route *route)
{
	size_t count;
	const struct http_route *first = api_routes(&count);

	if (!route || route < first || route >= first + count || route - first >= ROUTES_MAX)
		return ROUTES_MAX;
	return (size_t)(route - first);
}

void metrics_request(struct metrics *metrics, const struct http_route *route, int status, int64_t duration_us)
{
	size_t index = route_index(route), s = 0;

	while (s < STATUSES && statuses[s] != status)
		s++;
	atomic_fetch_add_explicit(&metrics->requests[index][s], 1, memory_order_relaxed);
	observe(&metrics->latency[index], duration_us);
}

void metrics_time(struct metrics *metrics, enum metrics_timer timer, int64_t us)
{
	observe(&metrics->timers[timer], us);
}

void metrics_audit_failed(struct metrics *metrics)
{
	atomic_fetch_add_explicit(&metrics->audit_failures, 1, memory_order_relaxed);
}

/* ---- text ---- */

static void head(struct buf *to, const char *name, const char *type, const char *help)
{
	buf_addf(to, "# HELP akira_%s %s\n# TYPE akira_%s %s\n", name, help, name, type);
}

static void value(struct buf *to, const char *name, const char *type, const char *help, uint64_t number)
{
	head(to, name, type, help);
	buf_addf(to, "akira_%s %" PRIu64 "\n", name, number);
}

static void histogram(struct buf *to, const char *name, const char *label, struct histogram *from)
{
	uint64_t count = 0;

	for (size_t i = 0; i < BOUNDS; i++) {
		count += atomic_load_explicit(&from->buckets[i], memory_order_relaxed);
		buf_addf(to, "akira_%s_bucket{%s%sle=\"%g\"} %" PRIu64 "\n", name, label, *label ? "," : "",
			 (double)bounds[i] / 1e6, count);
	}
	count += atomic_load_explicit(&from->buckets[BOUNDS], memory_order_relaxed);
	buf_addf(to, "akira_%s_bucket{%s%sle=\"+Inf\"} %" PRIu64 "\n", name, label, *label ? "," : "", count);
	const char *open = *label ? "{" : "", *close = *label ? "}" : "";
	buf_addf(to, "akira_%s_sum%s%s%s %.6f\n", name, open, label, close, (double)atomic_load(&from->sum_us) / 1e6);
	buf_addf(to, "akira_%s_count%s%s%s %" PRIu64 "\n", name, open, label, close, count);
}

static const char *route_name(size_t index)
{
	size_t count;
	const struct http_route *first = api_routes(&count);
	return index < count ? first[index].pattern : "none";
}

static const char *route_method(size_t index)
{
	size_t count;
	const struct http_route *first = api_routes(&count);
	return index < count ? first[index].method : "";
}

static uint64_t requests_of(struct metrics *metrics, size_t index)
{
	uint64_t sum = 0;
	for (size_t s = 0; s <= STATUSES; s++)
		sum += atomic_load(&metrics->requests[index][s]);
	return sum;
}

static void add_requests(struct buf *to, struct metrics *metrics)
{
	head(to, "http_requests_total", "counter", "Requests by route and status.");
	for (size_t i = 0; i <= ROUTES_MAX; i++)
		for (size_t s = 0; s <= STATUSES; s++) {
			uint64_t count = atomic_load(&metrics->requests[i][s]);
			char status[8] = "other";
			if (s < STATUSES)
				snprintf(status, sizeof(status), "%d", statuses[s]);
			if (count > 0)
				buf_addf(to,
					 "akira_http_requests_total{method=\"%s\",route=\"%s\",status=\"%s\"} %" PRIu64
					 "\n",
					 route_method(i), route_name(i), status, count);
		}
	head(to, "http_request_duration_seconds", "histogram", "Time from the request line to the answer.");
	for (size_t i = 0; i <= ROUTES_MAX; i++) {
		char label[128];
		snprintf(label, sizeof(label), "method=\"%s\",route=\"%s\"", route_method(i), route_name(i));
		if (requests_of(metrics, i) > 0)
			histogram(to, "http_request_duration_seconds", label, &metrics->latency[i]);
	}
}

static void add_domain(struct buf *to, struct sandboxes *sandboxes)
{
	struct sandboxes_figures f = { 0 };

	sandboxes_figures(sandboxes, &f);
	head(to, "sandboxes", "gauge", "Sandboxes by status.");
	for (int i = 0; i <= SANDBOX_ERROR; i++)
		buf_addf(to, "akira_sandboxes{status=\"%s\"} %" PRIu64 "\n", view_sandbox_status(i), f.by_status[i]);
	value(to, "pool_ready", "gauge", "Restored, unclaimed VMs.", f.pool_ready);
	value(to, "pool_hits_total", "counter", "Creates served by the pool.", f.pool_hits);
	value(to, "pool_misses_total", "counter", "Creates that the pool could not serve.", f.pool_misses);
	value(to, "template_hits_total", "counter", "Creates restored from a template.", f.template_hits);
	value(to, "template_builds_total", "counter", "Templates built.", f.template_builds);
	value(to, "sandbox_creates_total", "counter", "Sandboxes created.", f.creates);
	value(to, "sandbox_create_failures_total", "counter", "Creates that failed.", f.create_failures);
	value(to, "executions_total", "counter", "Commands run.", f.execs);
	value(to, "memory_committed_bytes", "gauge", "Memory granted to sandboxes.", f.memory_committed_bytes);
	value(to, "memory_budget_bytes", "gauge", "Memory that may be granted.", f.memory_budget_bytes);
	value(to, "disk_free_bytes", "gauge", "Free bytes in the data directory.", f.disk_free_bytes);
}

static void by_org(struct buf *to, const char *name, const char *type, const char *help,
		   const struct sandboxes_org_figures *rows, size_t count, size_t offset)
{
	head(to, name, type, help);
	for (size_t i = 0; i < count; i++)
		buf_addf(to, "akira_%s{organisation=\"%s\"} %" PRIu64 "\n", name, rows[i].org,
			 *(const uint64_t *)((const char *)&rows[i] + offset));
}

static void add_organisations(struct buf *to, struct sandboxes *sandboxes)
{
	static const struct {
		const char *name, *type, *help;
		size_t offset;
	} figures[] = {
#define FIGURE(name, type, help, member) { name, type, help, offsetof(struct sandboxes_org_figures, member) }
		FIGURE("organisation_sandboxes", "gauge", "Live sandboxes, paused ones included.", sandboxes),
		FIGURE("organisation_memory_bytes", "gauge", "Memory granted to running sandboxes.", memory_bytes),
		FIGURE("organisation_cpu_units", "gauge", "Quarters of a vCPU granted to running sandboxes.",
		       cpu_units),
		FIGURE("organisation_disk_bytes", "gauge", "Disk that sandboxes take up.", disk_bytes),
		FIGURE("organisation_snapshot_bytes", "gauge", "Disk that snapshots take up.", snapshot_bytes),
		FIGURE("organisation_received_bytes_total", "counter", "Bytes that sandboxes received.", bytes_in),
		FIGURE("organisation_sent_bytes_total", "counter", "Bytes that sandboxes sent.", bytes_out),
		FIGURE("organisation_refused_packets_total", "counter", "Packets that the network policy refused.",
		       refused),
#undef FIGURE
	};
	struct sandboxes_org_figures *rows;
	size_t count;

	if (sandboxes_org_figures(sandboxes, &rows, &count) < 0) {
		to->failed = true;
		return;
	}
	for (size_t i = 0; i < sizeof(figures) / sizeof(figures[0]); i++)
		by_org(to, figures[i].name, figures[i].type, figures[i].help, rows, count, figures[i].offset);
	head(to, "organisation_cpu_seconds_total", "counter", "CPU time of VM processes.");
	for (size_t i = 0; i < count; i++)
		buf_addf(to, "akira_organisation_cpu_seconds_total{organisation=\"%s\"} %.6f\n", rows[i].org,
			 rows[i].cpu_s);
	free(rows);
}

static void add_audit(struct buf *to, struct metrics *metrics, const struct api_context *context)
{
	uint64_t last;

	value(to, "audit_failures_total", "counter", "Audit records that could not be written.",
	      atomic_load(&metrics->audit_failures));
	if (store_audit_last(context->store, &last, NULL) < 0)
		return; /* better no figure than a false one */
	value(to, "audit_records_total", "counter", "Audit records written since the installation.", last);
	if (!context->audit_copy)
		return;
	uint64_t copied = audit_copy_position(context->audit_copy);
	value(to, "audit_copy_lag_records", "gauge", "Audit records that are not in audit.file yet.",
	      last > copied ? last - copied : 0);
}

static void add_connections(struct buf *to, struct http_server *http)
{
	struct http_figures f = { 0 };

	http_figures(http, &f);
	value(to, "connections_open", "gauge", "Open connections.", f.open);
	value(to, "connections_accepted_total", "counter", "Connections accepted.", f.accepted);
	head(to, "connections_refused_total", "counter", "Connections closed at once, by bound.");
	buf_addf(to, "akira_connections_refused_total{bound=\"total\"} %" PRIu64 "\n", f.refused_full);
	buf_addf(to, "akira_connections_refused_total{bound=\"address\"} %" PRIu64 "\n", f.refused_address);
	value(to, "connections_timed_out_total", "counter", "Connections cut at a deadline.", f.timed_out);
	value(to, "long_calls", "gauge", "Long calls that run now.", f.jobs);
}

char *api_metrics(struct api_server *server, size_t *size)
{
	struct metrics *metrics = server->metrics;
	struct buf text = { 0 };

	add_requests(&text, metrics);
	head(&text, "sandbox_create_duration_seconds", "histogram", "Time of creates that succeeded.");
	histogram(&text, "sandbox_create_duration_seconds", "", &metrics->timers[METRICS_CREATE]);
	head(&text, "execution_duration_seconds", "histogram", "Time of commands.");
	histogram(&text, "execution_duration_seconds", "", &metrics->timers[METRICS_EXEC]);
	add_domain(&text, server->context.sandboxes);
	add_connections(&text, server->http);
	add_organisations(&text, server->context.sandboxes);
	add_audit(&text, metrics, &server->context);
	if (text.failed) {
		buf_free(&text);
		return NULL;
	}
	*size = text.size;
	return text.data;
}

/* The metrics' own listener has one route and no keys. */
static void on_metrics(struct http_request *request, struct http_response *response)
{
	size_t size = 0;
	char *text = api_metrics(call_of(request)->api, &size);

	if (text)
		http_reply_text(response, 200, "text/plain; version=0.0.4", text, size);
	else
		http_reply_error(response, 500, NULL, "out of memory");
	free(text);
}

const struct http_route metrics_route = { "GET", "/metrics", on_metrics, 0, HTTP_OPEN, 0, "metrics", NULL };
