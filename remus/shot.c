/* SPDX-License-Identifier: Apache-2.0
 * shot - the pages that one capture copied, and the queue of shots on their way to the sender.
 */
#include "remus/shot.h"

#include "remus/hotpages.h"
#include "replication/pagewords.h"

#include <stdlib.h>

static void shot_free(struct shot *s)
{
	if (!s)
		return;
	free(s->index);
	free(s->page);
	free(s->content);
	free(s->hot);
	free(s->body);
	free(s);
}

static struct shot *shot_new(uint64_t pages)
{
	struct shot *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->index = malloc(pages * sizeof(*s->index));
	s->page = malloc(pages * sizeof(*s->page));
	s->content = malloc(pages * sizeof(*s->content));
	s->hot = malloc(HOT_MAX * sizeof(*s->hot));
	s->body = malloc((size_t)HOT_MAX * PW_BODY_MAX);
	if (s->index && s->page && s->content && s->hot && s->body)
		return s;
	shot_free(s);
	return NULL;
}

void shots_init(struct shots *q, uint64_t pages)
{
	*q = (struct shots){.pages = pages};
	q->tail = &q->head;
	pthread_mutex_init(&q->lock, NULL); /* default attributes: cannot fail */
}

void shots_fini(struct shots *q)
{
	struct shot *s;

	while ((s = q->free)) {
		q->free = s->next;
		shot_free(s);
	}
	pthread_mutex_destroy(&q->lock);
}

struct shot *shots_get(struct shots *q)
{
	struct shot *s;

	pthread_mutex_lock(&q->lock);
	s = q->free;
	if (s)
		q->free = s->next;
	pthread_mutex_unlock(&q->lock);
	return s ? s : shot_new(q->pages);
}

void shots_put(struct shots *q, struct shot *s)
{
	s->n = s->n_hot = s->n_digests = 0;
	pthread_mutex_lock(&q->lock);
	s->next = q->free;
	q->free = s;
	pthread_mutex_unlock(&q->lock);
}

void shots_queue(struct shots *q, struct shot *s)
{
	s->next = NULL;
	pthread_mutex_lock(&q->lock);
	*q->tail = s;
	q->tail = &s->next;
	pthread_mutex_unlock(&q->lock);
}

struct shot *shots_next(struct shots *q)
{
	struct shot *s;

	pthread_mutex_lock(&q->lock);
	s = q->head;
	if (s) {
		q->head = s->next;
		if (!q->head)
			q->tail = &q->head;
	}
	pthread_mutex_unlock(&q->lock);
	return s;
}

void shots_settle(struct shots *q)
{
	struct shot *s;
	int have;

	pthread_mutex_lock(&q->lock);
	have = q->free != NULL;
	pthread_mutex_unlock(&q->lock);
	if (have)
		return;
	s = shot_new(q->pages);
	if (s)
		shots_put(q, s);
}
