/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The plug-in's door: ggml_backend_init(), the registration, one device a card. */
#include <cstdio>
#include <cstring>
#include <new>
#include <vector>

#include "card.hpp"
#include "log.hpp"
#include "operations.hpp"

namespace jal_ggml {

namespace {

/* ggml's tables change between versions, also where GGML_BACKEND_API_VERSION does not. */
constexpr const char *GGML_WANTED = "0.27.0";

Card &card_of(ggml_backend_dev_t device) noexcept { return *static_cast<Card *>(device->context); }

const char *device_name(ggml_backend_dev_t device) { return card_of(device).name; }

const char *device_description(ggml_backend_dev_t device) { return card_of(device).description; }

void device_memory(ggml_backend_dev_t device, std::size_t *free, std::size_t *total) {
    Card &card = card_of(device);
    const bool ready = card.ready();
    const std::uint64_t taken = card.taken.load();
    *total = ready ? card.hbm_bytes : 0;
    *free = ready && taken < card.hbm_bytes ? card.hbm_bytes - taken : 0;
}

enum ggml_backend_dev_type device_type(ggml_backend_dev_t) { return GGML_BACKEND_DEVICE_TYPE_GPU; }

void device_props(ggml_backend_dev_t device, ggml_backend_dev_props *props) {
    *props = ggml_backend_dev_props{};
    props->name = device_name(device);
    props->description = device_description(device);
    props->type = device_type(device);
    device_memory(device, &props->memory_free, &props->memory_total);
}

ggml_backend_t device_backend(ggml_backend_dev_t device, const char *) { return backend_new(&card_of(device)); }

ggml_backend_buffer_type_t device_buffers(ggml_backend_dev_t device) { return &card_of(device).buffers; }

bool device_supports_buffers(ggml_backend_dev_t device, ggml_backend_buffer_type_t type) {
    return type->device == device; /* a card has one type of buffer */
}

ggml_backend_device_i device_table() noexcept {
    ggml_backend_device_i table{};
    table.get_name = device_name;
    table.get_description = device_description;
    table.get_memory = device_memory;
    table.get_type = device_type;
    table.get_props = device_props;
    table.init_backend = device_backend;
    table.get_buffer_type = device_buffers;
    table.supports_op = device_supports;
    table.supports_buft = device_supports_buffers;
    return table;
}

/* What is registered lives as long as the process: ggml never gives a registration back. */
struct Registration {
    ggml_backend_reg reg{};
    std::vector<Card *> cards;
};

Registration &registration() noexcept {
    static Registration *one = new Registration;
    return *one;
}

const char *reg_name(ggml_backend_reg_t) { return "Jalapeno"; }

std::size_t reg_count(ggml_backend_reg_t) { return registration().cards.size(); }

ggml_backend_dev_t reg_device(ggml_backend_reg_t, std::size_t index) {
    return index < registration().cards.size() ? &registration().cards[index]->device : nullptr;
}

void add_card(Registration &all, const jal_device_summary &found) noexcept {
    Card *card = new Card;
    std::snprintf(card->name, sizeof card->name, "JAL%zu", all.cards.size());
    std::snprintf(card->description, sizeof card->description, "Jalapeno card at %.100s", found.name);
    std::memcpy(card->where, found.name, sizeof card->where);
    card->device.iface = device_table();
    card->device.reg = &all.reg;
    card->device.context = card;
    card->buffers.iface = buffer_type_table();
    card->buffers.device = &card->device;
    card->buffers.context = card;
    all.cards.push_back(card);
}

/* Lists the cards. One that does not answer is named and left out. */
void find_cards(Registration &all) noexcept {
    constexpr std::size_t MOST = 64;
    std::vector<jal_device_summary> found(MOST);
    std::size_t count = 0;
    const jal_status status = jal_device_list(found.data(), MOST, sizeof found[0], &count);
    if (status != JAL_OK) {
        say_failure("list the cards", status);
        return;
    }
    for (std::size_t i = 0; i < count && i < MOST; i++) {
        if (found[i].usable != 0)
            add_card(all, found[i]);
        else
            say(GGML_LOG_LEVEL_WARN, "%s left out: %s", found[i].name, found[i].problem);
    }
    if (all.cards.empty())
        say(GGML_LOG_LEVEL_WARN, "no card found; JAL devices are not offered (jalctl list, jalctl doctor)");
}

/* A line of the library's log; only what somebody should see. */
void relay(int level, const char *message, void *) {
    say(level == JAL_LOG_ERROR ? GGML_LOG_LEVEL_ERROR : GGML_LOG_LEVEL_WARN, "%s", message);
}

ggml_backend_reg_t begin() noexcept {
    const char *version = ggml_version();
    if (std::strcmp(version, GGML_WANTED) != 0) {
        say(GGML_LOG_LEVEL_ERROR, "built for ggml %s, loaded into ggml %s (%s): refused; build the plug-in for that version",
            GGML_WANTED, version, ggml_commit());
        return nullptr;
    }
    const jal_status status = jal_check_version(JAL_VERSION);
    if (status != JAL_OK) {
        say_failure("check libjalapeno", status);
        return nullptr;
    }
    jal_set_log(JAL_LOG_WARN, relay, nullptr);
    Registration &all = registration();
    if (all.reg.api_version == 0) {
        all.reg.api_version = GGML_BACKEND_API_VERSION;
        all.reg.iface.get_name = reg_name;
        all.reg.iface.get_device_count = reg_count;
        all.reg.iface.get_device = reg_device;
        find_cards(all);
    }
    return &all.reg;
}

} // namespace

} // namespace jal_ggml

extern "C" __attribute__((visibility("default"))) ggml_backend_reg_t ggml_backend_init(void) {
    return jal_ggml::begin();
}
